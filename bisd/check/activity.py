"""What goes on in the server, and keeps bisd from its work or the server from cleaning up behind it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

from bisd import db
from bisd.check.finding import Finding, Subject, age, fault, ok, unseen, warning
from bisd.config import Config

_OPEN = timedelta(minutes=5)
_IDLE = timedelta(minutes=1)
_WAL = 1 << 30
# Of the queue of notifications: it is all but empty, unless somebody does not read.
_FILLING = 0.005
_FULL = 0.5
_DEAD = 50_000


async def transactions(connection: db.Connection, _: Config) -> list[Finding]:
    """Rows that died since they began cannot be taken away, and what they have written is not seen."""
    findings = []
    for row in await connection.fetch(db.query("check_transactions"), _OPEN, _IDLE):
        if row["unseen"]:
            says = f"{row['unseen']} sessions of other roles cannot be looked at: grant pg_read_all_stats to this role"
            findings.append(unseen(Subject.TRANSACTIONS, says))
        else:
            does = "idle in a transaction" if row["idle"] else "in one transaction"
            who = f"{row['name'] or 'without a name'}, {row['role']}, pid {row['pid']}"
            says = f"{who} has been {does} for {age(row['seconds'])}: dead rows pile up behind it. End it: "
            findings.append(warning(Subject.TRANSACTIONS, f"{says}pg_terminate_backend({row['pid']})"))
    for row in await connection.fetch(db.query("check_prepared"), _OPEN):
        says = f"{row['gid']!r} of {row['role']} has been prepared for {age(row['seconds'])}, and keeps dead rows and locks: "
        findings.append(warning(Subject.TRANSACTIONS, says + "commit prepared, or rollback prepared"))
    return findings or [ok(Subject.TRANSACTIONS, f"none has been open for {_OPEN.total_seconds() / 60:.0f} minutes")]


async def slots(connection: db.Connection, _: Config) -> list[Finding]:
    """That nobody reads: the server keeps all WAL since then, until its disk is full."""
    findings = []
    for row in await connection.fetch(db.query("check_slots")):
        keeps = f"{row['octets'] / _WAL:.1f} GiB of WAL" + (" and dead rows" if row["rows"] else "")
        says = f"{row['kind']} slot {row['name']} is read by nobody, and keeps {keeps}: "
        findings.append(warning(Subject.SLOTS, f"{says}start its reader, or pg_drop_replication_slot('{row['name']}')"))
    return findings or [ok(Subject.SLOTS, "none that nobody reads")]


async def queue(connection: db.Connection, _: Config) -> list[Finding]:
    return [usage(await connection.fetchval(db.query("check_queue")))]


def usage(share: float) -> Finding:
    """Of the queue of notifications, 0 to 1."""
    if share < _FILLING:
        return ok(Subject.QUEUE, "all but empty")
    says = f"the queue of notifications is {share:.1%} full; when it is full, inserts of the application fail. Somebody "
    says += "listens in a transaction that does not end: find it in pg_stat_activity, state 'idle in transaction', and end it"
    return (fault if share >= _FULL else warning)(Subject.QUEUE, says)


async def bloat(connection: db.Connection, _: Config) -> list[Finding]:
    """Rows in bisd.delivery die within seconds; where they are not taken away, looking becomes slow."""
    findings = []
    for row in await connection.fetch(db.query("check_bloat")):
        if row["off"]:
            says = f"autovacuum is switched off for {row['name']}: alter table {row['name']} reset (autovacuum_enabled)"
            findings.append(warning(Subject.BLOAT, says))
        if row["dead"] > _DEAD + row["live"]:
            findings.append(warning(Subject.BLOAT, _bloated(row)))
    return findings or [ok(Subject.BLOAT, "vacuum keeps up")]


def _bloated(row: asyncpg.Record) -> str:
    at = row["vacuumed_at"]
    last = "never" if at is None else f"{age((datetime.now(UTC) - at).total_seconds())} ago"
    return (
        f"{row['name']} has {row['dead']:,} dead rows beside {row['live']:,}, last vacuumed {last}: "
        f"end the transactions that hold it back, if there are any, and: vacuum {row['name']}"
    )
