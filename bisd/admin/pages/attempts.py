"""Attempts as pages show them: what was sent, what came back, and how the time passed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from bisd import db, insight
from bisd.admin.pages import charts
from bisd.admin.pages.site import Asked
from bisd.delivery.message import compose
from bisd.errors import KeyUnreadableError
from bisd.model import Delivery, Webhook

# The latest ones are shown.
SHOWN = 50
_UNKNOWN = "…"
_SIGNATURES = ("X-BIS-Signature", "webhook-signature")


class Attempt(NamedTuple):
    """`headers` are those of its request, as it would be composed now; none where there was none, or its body is not kept."""

    row: dict[str, Any]
    shapes: list[charts.Shape]
    durations: dict[str, float]
    headers: list[tuple[str, str]]


async def told(
    asked: Asked, connection: db.Connection, event: dict[str, Any], rows: insight.Rows, own_headers: list[str]
) -> list[Attempt]:
    """The attempts at an event at one webhook, the latest first. `own_headers`: the names of the webhook's own."""
    account: dict[str, Any] = await insight.account(connection, asked.account_id, asked.viewer.account_id)
    latest: list[dict[str, Any]] = rows[::-1][:SHOWN]
    longest = max([row["total_ms"] or 0.0 for row in latest] + [0.0])
    return [
        Attempt(
            row,
            charts.phases(row, longest),
            charts.durations(row),
            [] if row["number"] is None or event["body"] is None else _headers(asked, account, event, row, own_headers),
        )
        for row in latest
    ]


def _headers(
    asked: Asked, account: dict[str, Any], event: dict[str, Any], row: dict[str, Any], own: list[str]
) -> list[tuple[str, str]]:
    key, previous, until = _keys(asked, account)
    at = row["attempted_at"]
    webhook = Webhook(row["webhook_id"], asked.account_id, "", key or "", previous, until, None, True)
    body = event["body"].encode()
    delivery = Delivery(
        webhook.id, event["id"], event["created_at"], at, at, row["number"] - 1, event["topic"], body, len(body),
        traceparent=event["traceparent"],
    )  # fmt: skip
    headers = compose(webhook, delivery, at).headers | dict.fromkeys(own, _UNKNOWN)
    if key is None:
        headers |= dict.fromkeys(_SIGNATURES, _UNKNOWN)
    return list(headers.items())


def _keys(asked: Asked, account: dict[str, Any]) -> tuple[str | None, str | None, datetime | None]:
    """The account's keys in plain, and until when the previous one is valid; None for what cannot be opened."""
    try:
        key, previous = (
            asked.site.keyring.open(asked.account_id, stored) if stored is not None else None
            for stored in (account["api_key"], account["previous_api_key"])
        )
    except KeyUnreadableError:
        return None, None, None
    return key, previous, account["previous_until"]
