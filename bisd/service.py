"""The daemon, put together: what it is made of, the loops it runs, and the order in which it stops."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from aiohttp import web

from bisd import __version__, admin, db, log, migrate, systemd
from bisd.address import Address
from bisd.admin import guard, operations
from bisd.admin.desk import LONGEST, Desk
from bisd.backlog import Backlog
from bisd.bell import Bell
from bisd.clock import Clock
from bisd.config import Config
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.delivery.writeback import Writeback
from bisd.errors import ConfigurationError, ServerUnfitError
from bisd.fleet import is_sure
from bisd.housekeeping import Housekeeping
from bisd.intake import Intake
from bisd.keyring import Keyring
from bisd.lanes import Lanes
from bisd.metrics import Metrics
from bisd.model import Outcome
from bisd.reload import Parts, Reload, apply, limits
from bisd.sessions import Sessions
from bisd.vigil import Vigil
from bisd.vitals import Vitals
from bisd.worker import Worker, Workers, hear

if TYPE_CHECKING:
    from bisd.traces import Traces

# Seconds that the manager is asked for: to find a database again, and to write what is left when nothing is in flight any more.
_START = 60.0
_WRITING = 20.0


class Service:
    """One daemon. `run` until `stop` is called, a second time if what is in flight shall not be waited for. `reread` gives the
    configuration as it is now, for `reload`; or raises ConfigurationError."""

    def __init__(self, config: Config, dsn: str, reread: Callable[[], Config] | None = None) -> None:
        self._config = config
        self._primary = db.primary(dsn)
        self._reread = reread or (lambda: config)
        delivery = config.delivery
        self._lanes = Lanes(delivery.max_in_flight_per_webhook, limits(config), in_flight=delivery.max_in_flight)
        self._keyring = Keyring(config.keys)
        self._clock = Clock()
        self.metrics = Metrics()
        self._writeback = Writeback(self._opening("writeback"), self._written, partial(is_sure, self._clock))
        self._sessions = Sessions(self._opening("pool"), config.database.pool_size)
        self._bell = Bell(self._sessions)
        self._desk = Desk(partial(self._connect, "http", db.ASKED, LONGEST))
        self._intake = Intake(
            self._opening("intake"),
            self._keyring,
            self._lanes,
            self._clock,
            self._wake,
            self._writeback,
            self.metrics,
            self._bell.ring,
        )
        self._backlog = Backlog(self._sessions, self._shards, self._intake.ready)
        self._vitals = Vitals(self._lanes, self._intake, self._writeback, self._clock, self.metrics)
        for collector in (self._vitals, self._backlog):
            self.metrics.registry.register(collector)
        self.listens_at: Address | Path | None = None
        self._workers: Workers | None = None
        self._reload: Reload | None = None
        self._reload_asked = asyncio.Event()
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._waiting = False
        self._log = log.get()
        self.ready = self._intake.ready

    def stop(self) -> None:
        if self._stop.is_set():
            self._cut.set()
        self._stop.set()

    def reload(self) -> None:
        """Once it is ready, it reads its configuration again and goes by it. May be called at any time, and often."""
        self._reload_asked.set()

    async def run(self) -> None:
        """Raises ConfigurationError, SchemaOlderError, SchemaNewerError or ServerUnfitError where it cannot work."""
        self._log.info(log.Event.STARTED, version=__version__)
        asyncio.get_running_loop().set_exception_handler(self._complain)
        _collect_seldom()
        # Who asks whether it is ready is answered from the first moment to the last.
        async with self._desk, admin.serving(self._config.http, self.routes()) as self.listens_at:
            await self._deliver()

    async def _deliver(self) -> None:
        if not await self._start():
            return
        config = self._config
        post = await Post(config.delivery, config.egress).open()
        worker = Worker(self._lanes, post, Policy(config.delivery, config.retry), self._writeback, self._clock, _traces())
        try:
            async with self._sessions:
                async with asyncio.TaskGroup() as loops:
                    await self._work(worker, loops)
                await self._bell.toll()  # what was ours is free
        finally:
            await worker.post.close()
        self._log.info(log.Event.STOPPED)

    async def _work(self, worker: Worker, loops: asyncio.TaskGroup) -> None:
        """Starts the loops, and stops them when it is told to."""
        config = self._config
        most = config.delivery.max_in_flight
        workers = self._workers = Workers(worker, self._lanes, self._clock, loops, most, self._intake.refill)
        housekeeping = Housekeeping(self._sessions, config.retention, self._keyring)
        parts = Parts(self._lanes, worker, workers, housekeeping)
        apply(config, worker.post, parts)
        reload = self._reload = Reload(config, self._reread, self._reload_asked, parts, loops, self.metrics.reloaded)
        vigil = Vigil(self._vitals.stalled, partial(self._status, reload), self._vitals.lagged)
        tasks = [
            loops.create_task(loop(), name=name)
            for name, loop in (
                ("intake", self._intake.run),
                ("writeback", self._writeback.run),
                ("bell", self._bell.run),
                ("housekeeping", housekeeping.run),
                ("sealing", housekeeping.seal),
                ("vigil", vigil.run),
            )
        ]
        if config.http.listen is not None:
            tasks.append(loops.create_task(self._backlog.run(), name="backlog"))
        self._vitals.begin(workers, tasks)
        following = loops.create_task(self._follow(reload), name="reload")
        await self._stop.wait()
        following.cancel()  # no reload may begin now, or say that it has ended
        await self._shut_down(workers, reload.patience.total_seconds() + 1, tasks)

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the loop has to say that nobody waits for. How a connection ended, with `transport`, its attempt tells."""
        if "transport" not in context:
            fault = context.get("exception", RuntimeError())
            self._log.error(log.Event.INTERNAL_FAULT, error=type(fault).__name__, where=log.place(fault))

    async def _start(self) -> bool:
        """Waits for a database with the right schema; False if told to stop meanwhile."""
        async with asyncio.TaskGroup() as starting:
            schema = starting.create_task(self._require_schema())
            stopped = starting.create_task(self._stop.wait())
            await asyncio.wait({schema, stopped}, return_when=asyncio.FIRST_COMPLETED)
            schema.cancel()
            stopped.cancel()
        return not self._stop.is_set()

    async def _shut_down(self, workers: Workers, patience: float, tasks: list[asyncio.Task[None]]) -> None:
        """The order matters. First nothing new is sent, and shards go of which nothing is under way; then what is in flight may
        end, for as long as an attempt can take; then every outcome is written, for it exists nowhere else; and only then the
        session goes that owns the other shards, so that nobody sends again what we have just sent."""
        self._log.info(log.Event.STOPPING, in_flight=len(workers))
        self._vitals.stop()
        self._intake.leave()
        systemd.notify(f"STOPPING=1\n{systemd.extension(patience + _WRITING)}")
        async with asyncio.TaskGroup() as stopping:
            cutting = stopping.create_task(self._cut_short(workers))
            await workers.stop(patience)
            cutting.cancel()
        for report in self._lanes.untold(self._shards() if is_sure(self._clock) else ()):
            self._writeback.report(report)
        await self._writeback.drained()
        for task in tasks:
            task.cancel()

    async def _cut_short(self, workers: Workers) -> None:
        await self._cut.wait()
        workers.cut()

    async def _follow(self, reload: Reload) -> None:
        """Says that it is ready once it is, and only from then on follows its configuration."""
        await self.ready.wait()
        self._log.info(log.Event.READY)
        systemd.notify("READY=1")
        await reload.run()

    def _status(self, reload: Reload, seconds: float) -> str:
        """One line, of the last so many seconds."""
        doing = self._vitals.status(seconds)
        return f"{doing}; {reload.verdict}" if reload.faults else doing

    async def _require_schema(self) -> None:
        async for attempt in db.outliving(self._cannot_start):
            with attempt:
                try:
                    connection = await self._connect("start")
                except db.POOLED:
                    raise ServerUnfitError(reason=db.TRANSACTIONS_POOLED) from None
                except ValueError:
                    raise ConfigurationError(["database.dsn: is not a PostgreSQL URL"]) from None
                except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as fault:
                    raise ServerUnfitError(reason=f"it refuses us: {fault.args[0]}") from None
                try:
                    await db.require_fit(connection)
                    await db.require_session(connection, self._opening("start"))
                    await migrate.require_current(connection)
                finally:
                    connection.terminate()

    def _cannot_start(self, fault: BaseException) -> None:
        systemd.notify(f"STATUS=waiting for the database ({type(fault).__name__})\n{systemd.extension(_START)}")
        if not self._waiting:
            self._waiting = True
            self._log.warning(log.Event.DATABASE_LOST, error=type(fault).__name__, what="start")

    def _opening(self, what: str) -> Callable[[], Awaitable[db.Connection]]:
        return partial(self._connect, what)

    async def _connect(self, what: str, settings: db.Settings = db.DAEMON, patience: float = 10.0) -> db.Connection:
        try:
            connection = await db.connect(self._primary, settings, patience=patience)
        except db.ANY:
            self.metrics.connected(what, done=False)
            raise
        self.metrics.connected(what, done=True)
        return connection

    def routes(self) -> list[web.RouteDef]:
        """Of the HTTP face: whatever has some is named here. Raises ConfigurationError."""
        token = guard.token(self._config.http)
        if self._config.http.listen is None:
            return []
        # Where nobody listens they need not be there: 7 MB.
        from bisd.admin import api, pages
        from bisd.admin.callers import Callers
        from bisd.admin.pages.gate import Gate
        from bisd.admin.pages.site import Site

        return [
            *operations.routes(self._vitals, self.metrics.registry, token),
            *api.routes(self._desk, Callers(self._desk, token), self._keyring, self._current),
            *pages.routes(Site(self._desk, Gate(token), self._current, self._keyring, self._stop)),
        ]

    def _current(self) -> Config:
        """The configuration in force."""
        return self._config if self._reload is None else self._reload.config

    def _shards(self) -> frozenset[int]:
        return frozenset() if self._intake.fleet is None else self._intake.fleet.held

    def _wake(self) -> None:
        if self._workers is not None:
            self._workers.wake()

    def _written(self, outcomes: list[Outcome], fenced: set[tuple[int, int]], seconds: float) -> None:
        """What the lanes must know of a batch that is in the database, and what is counted of it."""
        if outcomes:
            self.metrics.written(outcomes, fenced, seconds)
        hear(self._lanes, outcomes, fenced)
        self._wake()


def _traces() -> Traces | None:
    """None where opentelemetry-api is not installed, or nobody has set up where spans go."""
    try:
        from bisd import traces
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "opentelemetry":
            raise
        return None
    return traces.configured()


def _collect_seldom() -> None:
    """The garbage collector looks at every object that lives, and tens of thousands of deliveries live here for a while;
    hardly any garbage of ours is circular. Measured: a tenth of the time of a delivery."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
