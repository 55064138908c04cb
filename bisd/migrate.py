"""Brings the schema up to date: numbered files, each in a transaction of its own, under one lock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

from bisd import db
from bisd.errors import SchemaNewerError, SchemaOlderError


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str


def known() -> list[Migration]:
    """The migrations that this bisd has, in order."""
    found = []
    for entry in (files("bisd") / "sql" / "migrations").iterdir():
        if match := re.fullmatch(r"([0-9]{4})_([a-z_]+)\.sql", entry.name):
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


async def version(connection: db.Connection) -> int:
    """The schema's version; 0 where there is none."""
    exists: bool = await connection.fetchval(db.query("has_schema"))
    return int(await connection.fetchval(db.query("schema_version"))) if exists else 0


async def migrate(connection: db.Connection) -> list[Migration]:
    """Applies what is missing, and answers it. Any number of processes may try at once: one does it, the others wait.

    Raises SchemaNewerError if the database was migrated by a later bisd, and asyncpg.LockNotAvailableError if somebody holds
    for seconds what a migration needs; those before it stay applied.
    """
    await db.require_fit(connection)
    await connection.execute(db.query("lock_migrations"))
    try:
        found = await version(connection)
        _refuse_newer(found)
        missing = [migration for migration in known() if migration.number > found]
        for migration in missing:
            async with connection.transaction():
                await connection.execute(db.query("migration_patience"))
                if migration.number == 1:
                    await connection.execute(db.query("create_schema"))
                await connection.execute(migration.sql)
                await connection.execute(db.query("record_migration"), migration.number, migration.name)
        return missing
    finally:
        if not connection.is_closed():
            await connection.execute(db.query("unlock_migrations"))


async def require_current(connection: db.Connection) -> None:
    """Raises SchemaOlderError or SchemaNewerError if the schema is not the one that this bisd works with."""
    found = await version(connection)
    _refuse_newer(found)
    if found < known()[-1].number:
        raise SchemaOlderError(found=found, known=known()[-1].number)


def _refuse_newer(found: int) -> None:
    if found > known()[-1].number:
        raise SchemaNewerError(found=found, known=known()[-1].number)
