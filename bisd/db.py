"""Connections to PostgreSQL, and what SQL the package holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import cache
from importlib.resources import files

import asyncpg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from bisd import config as configuration
from bisd import embedded, log
from bisd.config import DatabaseConfig
from bisd.errors import ServerUnfitError
from bisd.primary import Connection as Connection
from bisd.primary import Primary

# What a restart, a failover, a full disk or a cut line raises (RELIABILITY: measured); all else is a fault of ours.
TRANSIENT: tuple[type[BaseException], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

# Whatever a statement or a connection can fail with, for what may as well be done later.
ANY: tuple[type[BaseException], ...] = (asyncpg.PostgresError, *TRANSIENT)

# What was prepared in one session is sought, or made again, in another.
POOLED: tuple[type[BaseException], ...] = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
TRANSACTIONS_POOLED = (
    "a pooler gives each transaction another session of the server: connect directly or by session pooling, not through "
    "transaction pooling"
)
_KEPT_WITHIN = 2.0

# How a session runs, by the names of PostgreSQL's settings.
Settings = Mapping[str, str]

# The daemon's own. A server crash may put work back, never drop it, so they need not wait for the disk; and
# plans must not depend on statistics that a fresh table does not have: every query of ours goes by an index.
DAEMON: Settings = {
    "search_path": "pg_catalog",
    "synchronous_commit": "off",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    # So that the server notices within seconds that our host is gone, and frees our shards.
    "tcp_keepalives_idle": "3",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": "8s",
    # Planned once: with fifty partitions, planning a look costs more than a millisecond, and the look itself a fifth of one.
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    # Whoever asks a heavy question shall not take two cores for it.
    "max_parallel_workers_per_gather": "0",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
# Those that answer people and their programs: within moments or not at all; what they change is on disk when it is answered.
ASKED: Settings = {
    **DAEMON,
    "application_name": "bisd http",
    "synchronous_commit": "on",
    "statement_timeout": "2s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "5s",
}


def query(name: str) -> str:
    """The text of queries/<name>.sql."""
    return _queries()[name]


@cache
def _queries() -> dict[str, str]:
    """All of them at once: whoever has no descriptor left could not open the file of the one that is wanted then."""
    found = (files("bisd") / "sql" / "queries").iterdir()
    return {file.name.removesuffix(".sql"): file.read_text(encoding="utf-8") for file in found if file.name.endswith(".sql")}


def resolve_dsn(config: DatabaseConfig) -> str:
    """Where the database is; starts the embedded one if the configuration names none."""
    if config.dsn_file is not None:
        return configuration.secret(config.dsn_file, "database.dsn_file")
    return config.dsn if config.dsn is not None else embedded.start()


def primary(dsn: str) -> Primary:
    """Of the servers that the DSN names, the one to go to, for whoever goes there again and again."""
    return Primary(dsn, query("timeline"))


async def connect(server: str | Primary, settings: Settings | None = None, *, patience: float = 10.0) -> Connection:
    """One session of the server at a DSN. A daemon's has settings for its queries, which take milliseconds: one that has not
    answered within `patience` seconds is lost, however alive its connection looks. They are set once it is open: PgBouncer,
    which may well pool sessions, lets none in that asks for more than the two that it begins with."""
    connection = await (primary(server) if isinstance(server, str) else server).connect(
        command_timeout=60 if settings is None else patience,
        server_settings={"application_name": "bisd", "timezone": "UTC"},
    )
    if settings is not None:
        with ExitStack() as failing:
            failing.callback(connection.terminate)
            await connection.execute(query("set_session"), list(settings), list(settings.values()))
            failing.pop_all()
    return connection


async def require_fit(connection: Connection) -> None:
    """Raises ServerUnfitError for a server that bisd cannot work with."""
    row = await connection.fetchrow(query("pg_version"))
    assert row is not None
    if row["version"] < 140000:
        raise ServerUnfitError(reason=f"PostgreSQL 14 or later is needed, this is {row['version'] // 10000}")
    if row["encoding"] != "UTF8":
        raise ServerUnfitError(reason=f"its encoding is {row['encoding']}, UTF8 is needed; create the database with it")


async def keeps_session(connection: Connection, other: Connection) -> bool:
    """Whether we are served by the same process of the server as before, while somebody else is in the middle of a
    transaction: from a pooler that gives each transaction another session he has got ours."""
    try:
        before = await connection.fetchval(query("backend"))
        async with other.transaction():
            await other.fetchval(query("backend"))
            return bool(before == await connection.fetchval(query("backend"), timeout=_KEPT_WITHIN))
    except TimeoutError:
        return False
    except POOLED:
        return False


async def require_session(connection: Connection, connect: Callable[[], Awaitable[Connection]]) -> None:
    """Raises ServerUnfitError where transactions are pooled: locks would be left to whoever comes next, and bells not heard.
    Two sessions are compared only where somebody is in between: his number for ours is not the server's."""
    if connection.get_server_pid() == await connection.fetchval(query("backend")):
        return
    other = await connect()
    try:
        kept = await keeps_session(connection, other)
    finally:
        other.terminate()
    if not kept:
        raise ServerUnfitError(reason=TRANSACTIONS_POOLED)


class Trouble:
    """What keeps a part of the daemon, named `what`, from the database. The log is told when it begins: that it is lost, or
    that it refuses what we ask of it, in its own words, as after a change of the schema that nobody should have made."""

    def __init__(self, what: str) -> None:
        self.refusal: str | None = None
        self._what = what
        self._lost = False
        self._log = log.get()

    def begin(self, fault: BaseException) -> None:
        """One of ANY was raised."""
        if isinstance(fault, TRANSIENT):
            if not self._lost:
                self._log.warning(log.Event.DATABASE_LOST, error=type(fault).__name__, what=self._what)
        elif self.refusal != str(fault.args[0]):
            self.refusal = str(fault.args[0])
            error = type(fault).__name__
            self._log.error(log.Event.DATABASE_REFUSES, error=error, what=self._what, reason=self.refusal, advice="bisd check")
        self._lost = True

    def end(self) -> bool:
        """All is well; whether it was not."""
        before, self._lost, self.refusal = self._lost, False, None
        return before


def outliving(
    lost: Callable[[BaseException], None], faults: tuple[type[BaseException], ...] = TRANSIENT, longest: float = 1.0
) -> AsyncRetrying:
    """Attempts without end at what needs the database, until one succeeds; waits up to `longest` seconds between them. May be
    gone through again: each that is made leaves circular garbage.

    `lost` hears of every fault. Only `faults` are outlived: anything else, cancellation included, is raised.
    """

    def tell(state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome is not None else None
        if fault is not None:
            lost(fault)

    return AsyncRetrying(
        retry=retry_if_exception_type(faults),
        wait=wait_random_exponential(multiplier=0.1, max=longest),
        before_sleep=tell,
        reraise=True,
    )
