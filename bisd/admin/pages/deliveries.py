"""Deliveries: what was owed to whom, and each attempt; to be searched, sent again, cancelled."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from bisd import control, db, insight
from bisd.admin.pages import attempts, fields
from bisd.admin.pages.gate import Form
from bisd.admin.pages.rendering import say
from bisd.admin.pages.site import Asked, go
from bisd.deliveries import STATES
from bisd.errors import NotFoundError, RequestRefusedError
from bisd.listing import Cursor, Page

_LISTED = 50
_FILTERS = ("event", "state", "topic", "webhook", "since", "until")
_OWED = ("pending", "retrying", "held")
# What a page may say of what was done a moment ago.
_DONE = ("retried", "cancelled")


async def listing(asked: Asked) -> web.StreamResponse:
    given = {name: asked.request.query.get(name, "") for name in _FILTERS}
    after = asked.request.query.get("after", "")
    trouble = None
    async with asked.site.desk.connection() as connection:
        webhooks = await insight.glance(connection, asked.account_id)
        try:
            page = await _found(connection, asked.account_id, given, Cursor.parse(after) if after else None)
        except RequestRefusedError as fault:
            page, trouble = Page([], None), str(fault)
    chosen = {name: value for name, value in given.items() if value}
    path = f"{asked.base}/deliveries"
    return asked.render(
        "deliveries.html",
        here="deliveries",
        follow="" if after else f"{asked.base}/live",
        given=given,
        states=STATES,
        topics=sorted({str(one["topic"]) for one in webhooks}),
        webhooks=webhooks,
        rows=page.rows,
        filtered=bool(chosen),
        more_filters=bool(chosen.keys() - {"event", "state"}),
        trouble=trouble,
        next=f"{path}?{urlencode(chosen | {'after': str(page.next)})}" if page.next is not None else None,
        first=f"{path}?{urlencode(chosen)}" if after else None,
    )


async def _found(connection: db.Connection, account_id: int, given: Form, after: Cursor | None) -> Page:
    """Raises RequestRefusedError where a filter cannot be meant."""
    if given["state"] not in ("", *STATES):
        raise fields.wrong("state")
    webhook_id = fields.event(given, "webhook")
    if (event_id := fields.event(given, "event")) is not None:
        try:
            rows, _ = await insight.delivery(connection, event_id, account_id)
        except NotFoundError:
            return Page([], None)
        kept = (given["state"], given["topic"], webhook_id)
        return Page([row for row in rows if _fits(row, *kept)], None)
    return await insight.deliveries(
        connection,
        account_id=account_id,
        webhook_id=webhook_id,
        state=given["state"] or None,
        topic=fields.topic(given, "topic"),
        since=fields.moment(given, "since"),
        until=fields.moment(given, "until"),
        after=after,
        most=_LISTED,
    )


def _fits(row: dict[str, object], state: str, topic: str, webhook_id: int | None) -> bool:
    return row["state"] == (state or row["state"]) and row["topic"] == (topic or row["topic"]) and (
        webhook_id is None or row["webhook_id"] == webhook_id
    )  # fmt: skip


async def show(asked: Asked) -> web.StreamResponse:
    event_id, webhook_id = asked.number("event"), asked.number("webhook")
    async with asked.site.desk.connection() as connection:
        rows, tried = await insight.delivery(connection, event_id, asked.account_id)
        delivery: dict[str, Any] | None = next((row for row in rows if row["webhook_id"] == webhook_id), None)
        if delivery is None:
            raise NotFoundError(kind="delivery", key=event_id, listing="bisd delivery list")
        event = await _event(connection, delivery, asked.account_id)
        webhook = await _webhook(connection, webhook_id, asked.account_id)
        of_it = [row for row in tried if row["webhook_id"] == webhook_id]
        own = list(webhook["headers"]) if webhook is not None else []
        shown = await attempts.told(asked, connection, event, of_it, own)
    done = asked.request.query.get("done")
    return asked.render(
        "delivery.html",
        here="deliveries",
        follow=f"{asked.base}/live",
        done=done if done in _DONE else None,
        trouble=say("delivery.nothing") if done == "nothing" else None,
        delivery=delivery,
        event=event,
        webhook=webhook,
        is_owed=delivery["state"] in _OWED,
        attempts=shown,
        more=max(0, len(of_it) - attempts.SHOWN),
    )


async def _event(connection: db.Connection, delivery: dict[str, Any], account_id: int) -> dict[str, Any]:
    """As far as it is known: its attempts may be kept for longer, then it has no body."""
    try:
        return await insight.event(connection, delivery["event_id"], account_id)
    except NotFoundError:
        known = {"id": delivery["event_id"], "topic": delivery["topic"], "created_at": delivery["created_at"]}
        return known | {"body": None, "test": False}


async def _webhook(connection: db.Connection, webhook_id: int, account_id: int) -> dict[str, Any] | None:
    """None: it was removed."""
    try:
        return await insight.webhook(connection, webhook_id, account_id)
    except NotFoundError:
        return None


async def retry(asked: Asked, _: Form) -> web.StreamResponse:
    event_id, webhook_id = asked.number("event"), asked.number("webhook")
    async with asked.site.desk.connection() as connection:
        await insight.delivery(connection, event_id, asked.account_id)
        number = await control.retry(connection, event_id, webhook_id, asked.account_id)
    return go(f"{asked.base}/deliveries/{event_id}/{webhook_id}?done={'retried' if number else 'nothing'}")


async def cancel(asked: Asked, _: Form) -> web.StreamResponse:
    event_id, webhook_id = asked.number("event"), asked.number("webhook")
    async with asked.site.desk.connection() as connection:
        await insight.delivery(connection, event_id, asked.account_id)
        number = await control.cancel(connection, event_id, webhook_id, asked.account_id)
    return go(f"{asked.base}/deliveries/{event_id}/{webhook_id}?done={'cancelled' if number else 'nothing'}")
