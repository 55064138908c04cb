"""The daemon, put together: what it is made of, the loops it runs, and the order in which it stops."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import asyncpg

from bisd import __version__, blueprint, db, log, migrate, systemd
from bisd.clock import Clock
from bisd.config import Config
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.delivery.writeback import Writeback
from bisd.errors import ConfigurationError, ServerUnfitError
from bisd.health import Limits
from bisd.housekeeping import Housekeeping
from bisd.intake import Intake
from bisd.keyring import Keyring
from bisd.lanes import Lanes
from bisd.model import SHARDS, Outcome
from bisd.worker import Worker, Workers

if TYPE_CHECKING:
    from bisd.traces import Traces


_LISTED = 10


class Service:
    """One daemon. `run` until `stop` is called, a second time if what is in flight shall not be waited for."""

    def __init__(self, config: Config, dsn: str) -> None:
        self._config = config
        self._dsn = dsn
        limits = Limits(config.deactivation.failing_for, config.deactivation.min_attempts)
        delivery = config.delivery
        self._lanes = Lanes(delivery.max_in_flight_per_webhook, limits, in_flight=delivery.max_in_flight)
        self._keyring = Keyring(config.keys)
        self._clock = Clock()
        self._writeback = Writeback(self._connect, self._written)
        self._intake = Intake(self._connect, self._keyring, self._lanes, self._clock, self._wake, self._writeback.report)
        self._workers: Workers | None = None
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._waiting = False
        self._log = log.get()
        self.ready = self._intake.ready

    def stop(self) -> None:
        if self._stop.is_set():
            self._cut.set()
        self._stop.set()

    async def run(self) -> None:
        """Raises SchemaOlderError, SchemaNewerError or ServerUnfitError where it cannot work."""
        self._log.info(log.Event.STARTED, version=__version__)
        asyncio.get_running_loop().set_exception_handler(self._complain)
        _collect_seldom()
        if not await self._start():
            return
        async with Post(self._config.delivery, self._config.egress) as post, asyncio.TaskGroup() as loops:
            policy = Policy(self._config.delivery, self._config.retry)
            worker = Worker(self._lanes, post, policy, self._writeback, self._clock, _traces())
            self._workers = Workers(
                worker, self._lanes, self._clock, loops, self._config.delivery.max_in_flight, self._intake.refill
            )
            housekeeping = Housekeeping(self._connect, self._config.retention, self._keyring)
            tasks = [
                loops.create_task(loop(), name=name)
                for name, loop in (
                    ("intake", self._intake.run),
                    ("writeback", self._writeback.run),
                    ("housekeeping", housekeeping.run),
                    ("sealing", housekeeping.seal),
                    ("announce", self._announce),
                )
            ]
            await self._stop.wait()
            await self._shut_down(self._workers, tasks)
        self._log.info(log.Event.STOPPED)

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

    async def _shut_down(self, workers: Workers, tasks: list[asyncio.Task[None]]) -> None:
        """The order matters. First nothing new is sent; then what is in flight may end, for as long as an attempt can take;
        then every outcome is written, for it exists nowhere else; and only then the session goes that owns the shards, so
        that nobody sends again what we have just sent."""
        self._log.info(log.Event.STOPPING, in_flight=len(workers))
        systemd.notify("STOPPING=1")
        async with asyncio.TaskGroup() as stopping:
            cutting = stopping.create_task(self._cut_short(workers))
            await workers.stop(self._config.delivery.timeout.total_seconds() + 1)
            cutting.cancel()
        for report in self._lanes.untold(range(SHARDS)):
            self._writeback.report(report)
        await self._writeback.drained()
        for task in tasks:
            task.cancel()

    async def _cut_short(self, workers: Workers) -> None:
        await self._cut.wait()
        workers.cut()

    async def _announce(self) -> None:
        await self.ready.wait()
        self._log.info(log.Event.READY)
        systemd.notify("READY=1")

    async def _require_schema(self) -> None:
        async for attempt in db.outliving(self._cannot_start):
            with attempt:
                try:
                    connection = await self._connect()
                except db.POOLED:
                    raise ServerUnfitError(reason=db.TRANSACTIONS_POOLED) from None
                except ValueError:
                    raise ConfigurationError(["database.dsn: is not a PostgreSQL URL"]) from None
                except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as fault:
                    raise ServerUnfitError(reason=f"it refuses us: {fault.args[0]}") from None
                try:
                    await db.require_fit(connection)
                    await db.require_session(connection, self._connect)
                    await migrate.require_current(connection)
                    if drifted := [f"{thing.kind} {thing.name}" for thing in await blueprint.drifted(connection)]:
                        self._log.warning(log.Event.SCHEMA_DRIFTED, count=len(drifted), things=drifted[:_LISTED])
                finally:
                    connection.terminate()

    def _cannot_start(self, fault: BaseException) -> None:
        if not self._waiting:
            self._waiting = True
            self._log.warning(log.Event.DATABASE_LOST, error=type(fault).__name__, what="start")

    async def _connect(self) -> db.Connection:
        return await db.connect(self._dsn, daemon=True)

    def _wake(self) -> None:
        if self._workers is not None:
            self._workers.wake()

    def _written(self, outcomes: list[Outcome], fenced: set[tuple[int, int]]) -> None:
        """What the lanes must know of a batch that is in the database."""
        for outcome in outcomes:
            delivery = outcome.delivery
            if (delivery.webhook_id, delivery.event_id) in fenced:
                self._lanes.written(delivery, None)
                self._lanes.reread(delivery.webhook_id, delivery.owed_since)
            else:
                self._lanes.written(delivery, outcome.owed())
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
