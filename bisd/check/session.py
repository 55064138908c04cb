"""The session: whether it is one, or what a pooler makes of it; and whether the clocks agree."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg

from bisd import db
from bisd.check.finding import Finding, Subject, fault, ok, warning

_WITHIN = 2.0
# Receivers refuse what was signed more than five minutes ago, or will be.
_SKEW = 60.0
_POOLED = fault(Subject.SESSION, db.TRANSACTIONS_POOLED)


async def session(connection: db.Connection, dsn: str) -> list[Finding]:
    """A daemon's session is opened beside ours."""
    try:
        daemon = await db.connect(dsn, db.DAEMON)
    except db.POOLED:
        return [_POOLED]
    except asyncpg.PostgresError as why:
        says = f"a second session is not let in, and a daemon needs three: {why.args[0]} (SQLSTATE {why.sqlstate})"
        return [fault(Subject.SESSION, says)]
    try:
        if not await db.keeps_session(connection, daemon):
            return [_POOLED]
        if not await _is_heard(connection):
            return [fault(Subject.SESSION, "the bell does not reach us: connect directly")]
        if daemon.get_server_pid() != await daemon.fetchval(db.query("backend")):
            return [ok(Subject.SESSION, "through a pooler, which keeps sessions as they must be kept")]
        return [ok(Subject.SESSION, "the bell reaches us")]
    finally:
        daemon.terminate()


async def _is_heard(connection: db.Connection) -> bool:
    channel = f"bisd_check_{uuid4().hex}"
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await connection.add_listener(channel, hear)
    try:
        await connection.execute(db.query("check_bell"), channel)
        async with asyncio.timeout(_WITHIN):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        await connection.remove_listener(channel, hear)
    return True


async def clock(connection: db.Connection) -> list[Finding]:
    """The daemon goes by the database's clock, and signs with it."""
    asked = datetime.now(UTC)
    told = await connection.fetchval(db.query("check_clock"))
    return [skew((told - (asked + (datetime.now(UTC) - asked) / 2)).total_seconds())]


def skew(seconds: float) -> Finding:
    """`seconds`: by how much the database is ahead."""
    if abs(seconds) <= _SKEW:
        return ok(Subject.CLOCK, "this host and the database agree")
    which = "ahead of" if seconds > 0 else "behind"
    says = f"the database's clock is {abs(seconds):.0f} s {which} this host's; receivers refuse what is signed at a wrong time"
    return warning(Subject.CLOCK, f"{says}: synchronise both (chrony)")
