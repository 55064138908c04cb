"""Check: what would not work, before it has to. Asks and changes nothing.

One file per subject; each says what it found, and what to do about it. What cannot be looked at is said as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from bisd import db, migrate
from bisd.check import activity, egress, host, keys, schema, server, session
from bisd.check.finding import Finding, Level, Subject, fault, ok, unseen
from bisd.config import Config
from bisd.errors import BisdError

__all__ = ["Finding", "Level", "Subject", "check"]

Examine = Callable[[db.Connection, Config], Awaitable[list[Finding]]]

_OF_THE_SERVER: dict[Subject, Examine] = {
    Subject.ROLE: server.role,
    Subject.SETTINGS: server.settings,
    Subject.TRANSACTIONS: activity.transactions,
    Subject.SLOTS: activity.slots,
    Subject.QUEUE: activity.queue,
}
_OF_THE_SCHEMA: dict[Subject, Examine] = {
    Subject.SCHEMA: schema.schema,
    Subject.RIGHTS: schema.rights,
    Subject.TRIGGERS: schema.triggers,
    Subject.PARTITIONS: schema.partitions,
    Subject.BLOAT: activity.bloat,
    Subject.KEYS: keys.keys,
    Subject.EGRESS: egress.egress,
}


async def check(dsn: str, config: Config, file: Path | None) -> list[Finding]:
    """The findings, in the order of the subjects. `file`: where the configuration came from."""
    findings = [*host.configuration(config, file), *host.limits(config)]
    try:
        # As poor as it can be, so that there is little for a pooler to refuse or to lose.
        connection = await asyncpg.connect(
            dsn,
            timeout=5,
            command_timeout=30,
            statement_cache_size=0,
            server_settings={"application_name": "bisd check"},
            target_session_attrs=SessionAttribute.read_write,
        )
    except server.UNREACHABLE as why:
        return [*findings, server.unreachable(why)]
    try:
        findings += await _examine_all(connection, dsn, config)
    finally:
        connection.terminate()
    order = list(Subject)
    return sorted(findings, key=lambda finding: order.index(finding.subject))


async def _examine_all(connection: db.Connection, dsn: str, config: Config) -> list[Finding]:
    findings = []
    try:
        await db.require_fit(connection)
    except BisdError as unfit:
        return [fault(Subject.DATABASE, str(unfit))]
    examinations = {
        Subject.SESSION: lambda connection, _: session.session(connection, dsn),
        Subject.CLOCK: lambda connection, _: session.clock(connection),
        **_OF_THE_SERVER,
    }
    try:
        await migrate.require_current(connection)
        findings.append(ok(Subject.DATABASE, "the server is fit and the schema up to date"))
        examinations |= _OF_THE_SCHEMA
    except BisdError as other:
        findings.append(fault(Subject.DATABASE, str(other)))
    except asyncpg.InsufficientPrivilegeError as refused:
        says = f"{refused.args[0]}: grant bisd_daemon to the role that [database] dsn names"
        findings.append(fault(Subject.DATABASE, says))
    for subject, examine in examinations.items():
        try:
            findings += await examine(connection, config)
        except asyncpg.PostgresError as refused:
            findings.append(_refused(subject, refused))
        except (asyncpg.InterfaceError, OSError, TimeoutError) as lost:
            return [*findings, fault(subject, f"the database did not answer any more ({type(lost).__name__}): try again")]
    return findings


def _refused(subject: Subject, why: asyncpg.PostgresError) -> Finding:
    if isinstance(why, asyncpg.InsufficientPrivilegeError):
        return unseen(subject, f"this role may not look: {why.args[0]}")
    return fault(subject, f"cannot be looked at: {why.args[0]} (SQLSTATE {why.sqlstate})")
