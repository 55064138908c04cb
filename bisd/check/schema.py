"""The schema: whether it is what the migrations make, whose it is, who may do what, and whether there is room for tomorrow."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from bisd import blueprint, db
from bisd.blueprint import Thing
from bisd.check.finding import Finding, Subject, fault, ok, some, warning
from bisd.config import Config

# Housekeeping makes them for seven days ahead, once an hour.
_DAYS_AHEAD = 6
_STRAYS = 10_000


async def schema(connection: db.Connection, _: Config) -> list[Finding]:
    """What is missing or changed would fail sooner or later; what others have added may be meant."""
    expected, found = blueprint.expected(), await blueprint.found(connection)
    missing, changed, added = (
        expected.keys() - found.keys(),
        {thing for thing in expected.keys() & found.keys() if expected[thing] != found[thing]},
        found.keys() - expected.keys(),
    )
    findings = []
    rights = {thing for thing in missing | changed | added if thing.kind == "right"}
    for things, what in ((missing, "missing"), (changed, "not as the migrations made it")):
        if names := _names(things - rights):
            says = f"{what}: {names}. Undo it, or restore the schema from a database that bisd migrate has made"
            findings.append(fault(Subject.SCHEMA, says))
    if names := _names(added - rights):
        says = f"not made by bisd: {names}. It works on bisd's rows, and may fail them; keep it elsewhere, or take it away"
        findings.append(warning(Subject.SCHEMA, says))
    findings += _rights(missing & rights | changed & rights, added & rights)
    if owners := await connection.fetch(db.query("check_owners")):
        names = some([row["name"] for row in owners])
        says = f"these belong to others than {owners[0]['expected']}, who owns the schema: {names}: alter ... owner to"
        findings.append(fault(Subject.SCHEMA, says))
    return findings or [ok(Subject.SCHEMA, "what the migrations made, and nobody else's")]


def _rights(lacking: set[Thing], beyond: set[Thing]) -> list[Finding]:
    """Of the four roles, and of everybody."""
    findings = []
    if lacking:
        says = f"rights that bisd migrate grants are missing, or others: {_names(lacking)}: make the roles, and grant them"
        findings.append(fault(Subject.SCHEMA, says))
    if beyond:
        says = f"rights that bisd migrate has not granted: {_names(beyond)}: revoke them, unless they are meant"
        findings.append(warning(Subject.SCHEMA, says))
    return findings


def _names(things: Iterable[Thing]) -> str:
    return some([f"{thing.kind} {thing.name}" for thing in sorted(things)])


async def rights(connection: db.Connection, config: Config) -> list[Finding]:
    """Whether this role may do what the daemon does, and what an operator may, if one has a token for the HTTP face."""
    has_operators = config.http.listen is not None and config.http.token_file is not None
    rows = await connection.fetch(db.query("check_rights"), has_operators)
    needs = {"bisd_daemon": "for bisd run", "bisd_admin": "for the API and the pages"}
    lacked = {role: [row for row in rows if row["role"] == role] for role in needs}
    return [
        _listed(Subject.RIGHTS, lacked[role], f"{what}, this role must be granted {role}")
        for role, what in needs.items()
        if lacked[role] or role == "bisd_daemon"
    ]


async def triggers(connection: db.Connection, _: Config) -> list[Finding]:
    says = "without these nothing becomes an event, or is heard of: alter table ... enable trigger"
    return [_listed(Subject.TRIGGERS, await connection.fetch(db.query("check_triggers")), says)]


async def partitions(connection: db.Connection, _: Config) -> list[Finding]:
    """Those of today and the days ahead; and rows that came when there was none for them."""
    findings = []
    missing = [row["missing"] for row in await connection.fetch(db.query("check_partitions"), _DAYS_AHEAD)]
    if missing:
        says = f"missing: {some(missing, 4)}: a daemon makes them once an hour. Does one run, and log housekeeping_put_off?"
        findings.append(warning(Subject.PARTITIONS, says))
    row = await connection.fetchrow(db.query("check_strays"), _STRAYS + 1)
    assert row is not None
    for name, number in row.items():
        if number:
            about = f"more than {_STRAYS:,}" if number > _STRAYS else f"{number:,}"
            says = f"bisd.{name} holds {about} rows of days that have no partition: a daemon moves them, and so does "
            findings.append(warning(Subject.PARTITIONS, says + "`select bisd.make_partitions(7)`"))
    return findings or [ok(Subject.PARTITIONS, f"there for today and {_DAYS_AHEAD} days ahead; the default ones are empty")]


def _listed(subject: Subject, rows: list[asyncpg.Record], sentence: str) -> Finding:
    """A fault if any row names what is missing."""
    if rows:
        return fault(subject, f"{sentence}; missing: {some([row['missing'] for row in rows])}")
    return ok(subject, "all there")
