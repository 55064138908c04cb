"""Account, API: the key, shown when it is asked for; another one; and how to verify what it signs."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from aiohttp import web

from bisd import control, db, insight
from bisd.admin.pages import fields
from bisd.admin.pages.gate import Form
from bisd.admin.pages.rendering import TEMPLATES
from bisd.admin.pages.site import Asked, go
from bisd.delivery.message import sign
from bisd.errors import KeyUnreadableError
from bisd.sealing import seal_account
from bisd.values import parse_duration

OVERLAPS = ("0s", "1h", "24h", "7d", "30d")
LANGUAGES = ("Python", "Node", "Ruby", "PHP", "Go")
SAMPLES = TEMPLATES / "samples"


class Sample(NamedTuple):
    language: str
    code: str


class Keys(NamedTuple):
    """In plain; the previous one while it is valid."""

    current: str
    previous: str | None
    until: datetime | None


async def show(asked: Asked) -> web.StreamResponse:
    async with asked.site.desk.connection() as connection:
        keys = await _keys(asked, connection)
    return _page(asked, keys, done="rotated" if asked.request.query.get("done") == "rotated" else None)


async def reveal(asked: Asked, _: Form) -> web.StreamResponse:
    async with asked.site.desk.connection() as connection:
        keys = await _keys(asked, connection)
    return _page(asked, keys, key=keys.current) if isinstance(keys, Keys) else _page(asked, keys)


async def rotate(asked: Asked, form: Form) -> web.StreamResponse:
    overlap = parse_duration(fields.one_of(form, "overlap", OVERLAPS))
    fields.one_of(form, "sure", ("yes",))
    async with asked.site.desk.connection() as connection, connection.transaction():
        await control.rotate_key(connection, asked.account_id, overlap)
        if asked.site.keyring.has_master:
            await seal_account(connection, asked.site.keyring, asked.account_id)
    return go(f"{asked.base}/api?done=rotated")


async def check(asked: Asked, form: Form) -> web.StreamResponse:
    """Whether a key of the account gives that signature. A browser sends line ends of its own, which no JSON of ours has."""
    body, signature = form.get("body", "").replace("\r\n", "\n"), fields.text(form, "signature")
    async with asked.site.desk.connection() as connection:
        keys = await _keys(asked, connection)
    if not isinstance(keys, Keys):
        return _page(asked, keys)
    verdict = "wrong"
    for name, key in (("current", keys.current), ("previous", keys.previous)):
        if key is not None and hmac.compare_digest(sign(key, body.encode()).encode(), signature.encode()):
            verdict = name
            break
    return _page(asked, keys, verdict=verdict, given={"body": body, "signature": signature})


async def _keys(asked: Asked, connection: db.Connection) -> Keys | KeyUnreadableError:
    row: dict[str, Any] = await insight.account(connection, asked.account_id, asked.viewer.account_id)
    is_valid = row["previous_until"] is not None and row["previous_until"] > datetime.now(UTC)
    try:
        current, previous = (
            asked.site.keyring.open(asked.account_id, stored) if stored is not None else None
            for stored in (row["api_key"], row["previous_api_key"] if is_valid else None)
        )
    except KeyUnreadableError as fault:
        return fault
    assert current is not None
    return Keys(current, previous, row["previous_until"] if is_valid else None)


def _page(
    asked: Asked,
    keys: Keys | KeyUnreadableError,
    *,
    key: str | None = None,
    done: str | None = None,
    verdict: str | None = None,
    given: Form | None = None,
) -> web.StreamResponse:
    fault = keys if isinstance(keys, KeyUnreadableError) else None
    return asked.render(
        "api.html",
        status=HTTPStatus.OK if fault is None else HTTPStatus.CONFLICT,
        here="key",
        key=key,
        previous_until=None if isinstance(keys, KeyUnreadableError) else keys.until,
        overlaps=OVERLAPS,
        samples=samples(),
        verdict=verdict,
        given=given or {"body": "", "signature": ""},
        trouble=fault,
        done=done,
    )


def samples() -> list[Sample]:
    """How to verify, in each language."""
    return [
        Sample(language, (SAMPLES / f"{language.lower()}.txt").read_text(encoding="utf-8").strip()) for language in LANGUAGES
    ]
