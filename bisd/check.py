"""Check: what would not work, before it has to. Asks and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import uuid4

import asyncpg

from bisd import db, insight, migrate
from bisd.config import Config
from bisd.egress import Egress
from bisd.errors import BisdError, KeyUnreadableError, UrlRefusedError
from bisd.keyring import Keyring

_BELL_WITHIN = 2.0
# Receivers refuse what was signed more than five minutes ago, or will be.
_SKEW = 60.0


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Finding(NamedTuple):
    """What was looked at, how it is, and in a sentence what to do about it."""

    level: Level
    subject: str
    says: str


async def check(connection: db.Connection, config: Config) -> AsyncIterator[Finding]:
    """The findings, in the order in which they matter: after a fault of the server or its schema nothing else is asked."""
    try:
        await db.require_fit(connection)
        await migrate.require_current(connection)
    except BisdError as fault:
        yield Finding(Level.FAULT, "database", str(fault))
        return
    yield Finding(Level.OK, "database", "the server is fit and the schema up to date")
    yield _listed(
        "rights", await connection.fetch(db.query("check_rights")), "for bisd run, this role must be granted bisd_daemon"
    )
    yield _listed("triggers", await connection.fetch(db.query("check_triggers")), "these must be there, and switched on")
    async for finding in _bell(connection):
        yield finding
    yield await _keys(connection, config)
    yield await _egress(connection, config)


def _listed(subject: str, rows: list[asyncpg.Record], sentence: str) -> Finding:
    """A fault if any row names what is missing."""
    if rows:
        return Finding(Level.FAULT, subject, f"{sentence}; missing: {', '.join(row['missing'] for row in rows)}")
    return Finding(Level.OK, subject, "all there")


async def _bell(connection: db.Connection) -> AsyncIterator[Finding]:
    """A bell that is not heard was swallowed by a pooler that gives each transaction another session."""
    channel = f"bisd_check_{uuid4().hex}"
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await connection.add_listener(channel, hear)
    row = await connection.fetchrow(db.query("check_bell"), channel)
    assert row is not None
    skew = abs((datetime.now(UTC) - row["now"]).total_seconds())
    try:
        async with asyncio.timeout(_BELL_WITHIN):
            await heard.wait()
        yield Finding(Level.OK, "session", "the bell reaches us")
    except TimeoutError:
        says = "the bell does not reach us: connect directly or by session pooling, not through transaction pooling"
        yield Finding(Level.FAULT, "session", says)
    finally:
        await connection.remove_listener(channel, hear)
    if skew > _SKEW:
        yield Finding(Level.WARNING, "clock", f"this host and the database differ by {skew:.0f} s: synchronise their clocks")
    else:
        yield Finding(Level.OK, "clock", "this host and the database agree")


async def _keys(connection: db.Connection, config: Config) -> Finding:
    """Every sealed key is opened: one that cannot be holds its account's webhooks."""
    keyring = Keyring(config.keys)
    unreadable = set()
    for row in await connection.fetch(db.query("sealed_keys")):
        try:
            keyring.open(row["id"], row["key"])
        except KeyUnreadableError:
            unreadable.add(row["id"])
    if unreadable:
        says = f"API keys of {len(unreadable)} accounts cannot be opened, their webhooks are held: {_some(sorted(unreadable))}"
        return Finding(Level.FAULT, "keys", says)
    if not keyring.has_master:
        says = "API keys are not encrypted at rest, grants alone protect them: see [keys] master_file"
        return Finding(Level.WARNING, "keys", says)
    behind = sum(count.keys for count in keyring.census(await insight.keys(connection)) if count.state != "current")
    if behind:
        return Finding(Level.WARNING, "keys", f"{behind} API keys are not sealed under the master key: bisd keys seal")
    return Finding(Level.OK, "keys", "all API keys are sealed under the master key")


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:20])) + (", ..." if len(ids) > 20 else "")


async def _egress(connection: db.Connection, config: Config) -> Finding:
    egress = Egress(config.egress)
    refused = []
    for row in await connection.fetch(db.query("check_urls")):
        try:
            egress.permit_url(row["url"])
        except UrlRefusedError:
            refused.append(row["id"])
    if refused:
        says = f"[egress] refuses the URLs of {len(refused)} webhooks that are on: {_some(refused)}"
        return Finding(Level.WARNING, "egress", says)
    return Finding(Level.OK, "egress", "the URLs of all webhooks that are on are permitted")
