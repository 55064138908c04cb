"""A PostgreSQL of the tests' own: started once, a database per test cloned from a migrated template."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from bisd import db, migrate
from tests.support.cluster import Cluster

_TEMPLATE = "bisd_template"


class Server(Cluster):
    """A cluster, and databases in it. It vacuums nothing by itself, for it would look into every database in turn; unless the
    settings say otherwise."""

    def __init__(self, place: Path | None = None, in_memory: bool = False, **settings: str) -> None:
        super().__init__(place, in_memory)
        self._names = (f"test_{number}" for number in itertools.count())
        asyncio.run(self._prepare({"fsync": "off", "autovacuum": "off"} | settings))

    async def _prepare(self, settings: dict[str, str]) -> None:
        """Nothing here need survive a power cut; and a template, so that a test need not migrate."""
        await self.set(**settings)
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"create database {_TEMPLATE}")
        await connection.close()
        template = await db.connect(self.dsn(_TEMPLATE))
        await migrate.migrate(template)
        await template.close()

    async def set(self, **settings: str) -> None:
        """For all sessions, those that there are included."""
        connection = await asyncpg.connect(self.dsn("postgres"), server_settings={"default_transaction_read_only": "off"})
        for name, value in settings.items():
            await connection.execute(f"alter system set {name} = '{value}'")
        await connection.execute("select pg_reload_conf()")
        await connection.close()

    async def create(self, migrated: bool = True) -> str:
        """A database of its own; its DSN."""
        name = next(self._names)
        connection = await asyncpg.connect(self.dsn("postgres"))
        template = _TEMPLATE if migrated else "template1"
        # Half the time of a copy that goes through the log.
        await connection.execute(f"create database {name} template {template} strategy file_copy")
        await connection.close()
        return self.dsn(name)

    async def drop(self, dsn: str) -> None:
        """Whoever is connected to it is put out."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"drop database {urlsplit(dsn).path[1:]} with (force)")
        await connection.close()

    async def copy(self, dsn: str) -> str:
        """Another database, as the one at `dsn` is, to which nobody may be connected; its DSN."""
        name = next(self._names)
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"create database {name} template {urlsplit(dsn).path[1:]} strategy file_copy")
        await connection.close()
        return self.dsn(name)

    async def is_followed(self) -> bool:
        """Whether every standby has applied all that is written so far, and there is one."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        behind = await connection.fetchval("select max(pg_current_wal_lsn() - replay_lsn) from pg_stat_replication")
        await connection.close()
        return behind is not None and behind <= 0
