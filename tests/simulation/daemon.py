"""One daemon, put together of its own parts as service.py does: intake, lanes, workers, write-back, clock and policy are the
real ones. What is simulated is below them: the connections, the receivers, and the time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bisd.clock import Clock
from bisd.config import KeysConfig
from bisd.delivery.verdict import Policy
from bisd.delivery.writeback import Writeback
from bisd.fleet import is_sure
from bisd.intake import Intake
from bisd.keyring import Keyring
from bisd.lanes import Lanes, Turn
from bisd.metrics import Metrics
from bisd.model import Answer, Delivery, Message, Outcome, Took
from bisd.worker import Worker, Workers, hear
from tests.simulation.line import Connection, Line
from tests.simulation.timeline import Loop

if TYPE_CHECKING:
    from datetime import datetime

    from bisd.health import Report
    from tests.simulation.world import World


# Seconds in which a daemon that runs learns that its session was ended.
TOLD = 0.05


@cache
def _metrics() -> Metrics:
    return Metrics()


class WatchedLanes(Lanes):
    """The lanes, and a witness who sees every turn that is given, and how long each attempt is said to have taken."""

    turned: Any = None
    deny: Any = None

    def next(self, now: datetime) -> Turn | None:
        turn = super().next(now)
        if turn is not None:
            self.turned(turn, now)
        return turn

    def finish(self, delivery: Delivery, took: Took, now: datetime, error: str, seconds: float = 0.0) -> Report | None:
        if seconds < 0:
            self.deny("clock", f"an attempt took {seconds} seconds")
        return super().finish(delivery, took, now, error, seconds)


class Network:
    """In the place of Post: who is asked is a receiver of the simulation."""

    def __init__(self, daemon: Daemon, world: World) -> None:
        self._daemon = daemon
        self._world = world

    async def send(self, message: Message) -> Answer:
        webhook_id = int(message.url.split("//w")[1].split(".")[0])
        event_id = int(message.headers["webhook-id"].removeprefix("evt_"))
        flight = self._world.witness.sent(
            self._daemon, (webhook_id, event_id), int(message.headers["X-BIS-Attempt"]), message.body
        )
        try:
            seconds, answer = self._world.receivers.ask(webhook_id, event_id)
            if seconds:
                await asyncio.sleep(seconds)
            flight.answer = answer
            return answer
        finally:
            if self._daemon.loop.runs:
                self._world.witness.ended(flight)


class Tasks:
    """In the place of a TaskGroup, which a process that is killed could not leave."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self.fault: BaseException | None = None

    def create_task(self, story: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(story)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def abandon(self) -> None:
        """Where they are, and not to be taken up again."""
        for task in list(self._tasks):
            task.get_coro().close()  # type: ignore[union-attr]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self.fault = self.fault or task.exception()


class Daemon:
    """`fault_until`: until then something was wrong with it; `ended_at`, when the server has ended its session last, for no
    fault of the daemon's."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.fault_until = self.ended_at = -1e9
        self.started_at = world.timeline.now
        self.stopped = False
        self.stopping = asyncio.Event()
        self._world = world
        plan = world.plan
        chance = random.Random(world.chance.random())
        self.loop = Loop(world.timeline, partial(chance.uniform, 0.00001, 0.0003))
        self.line = Line(world.timeline, world.database, self.loop, chance, plan.stride, self._session_ended)
        self.lanes = WatchedLanes(plan.ceiling, plan.limits, plan.window, plan.budget, plan.octets, plan.most)
        self.lanes.turned = partial(world.witness.turned, self)
        self.lanes.deny = world.witness.deny
        self.clock = Clock(self.loop.time)
        self.writeback = Writeback(partial(self._connect, "writeback"), self._written, partial(is_sure, self.clock))
        self.intake = Intake(
            partial(self._connect, "intake"),
            Keyring(KeysConfig()),
            self.lanes,
            self.clock,
            self._wake,
            self.writeback,
            _metrics(),
            self.line.ring_fleet,
        )
        policy = Policy(plan.delivery, plan.retry, chance.random)
        self._worker = Worker(self.lanes, Network(self, world), policy, self.writeback, self.clock)  # type: ignore[arg-type]
        self.workers: Workers | None = None
        self._tasks = Tasks(self.loop)
        self._tasks.create_task(self._run())

    @property
    def died_of(self) -> object:
        """What none of its loops may end by."""
        return self._tasks.fault or (self.loop.faults[0] if self.loop.faults else None)

    @property
    def alive(self) -> bool:
        return not self.stopped and self.loop.runs

    async def _run(self) -> None:
        most, tasks = self._world.plan.most, self._tasks
        workers = self.workers = Workers(self._worker, self.lanes, self.clock, tasks, most, self.intake.refill)  # type: ignore[arg-type]
        loops = [tasks.create_task(self.intake.run()), tasks.create_task(self.writeback.run())]
        await self.stopping.wait()
        await self._shut_down(workers, loops)
        self.stopped = True

    async def _shut_down(self, workers: Workers, tasks: list[asyncio.Task[None]]) -> None:
        """The order of Service._shut_down."""
        self.intake.leave()
        await workers.stop(self._world.plan.delivery.timeout.total_seconds() + 1)
        held = self.intake.fleet.held if self.intake.fleet is not None and is_sure(self.clock) else ()
        for report in self.lanes.untold(held):
            self.writeback.report(report)
        await self.writeback.drained()
        for task in tasks:
            task.cancel()

    def fault(self, seconds: float = 0.0) -> None:
        """From now on, for so long, whatever it does twice is explained."""
        self.fault_until = max(self.fault_until, self._world.timeline.now + seconds)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.loop.call_soon(self.stopping.set)

    def kill(self, silently: bool) -> None:
        """As SIGKILL does; or its host is gone, and nobody says so."""
        self.fault(1e9)
        self.stopped = True
        for connection in list(self.line.open):
            connection.silent = silently
            connection.terminate()
        self.abandon()

    def abandon(self) -> None:
        """Nothing of it ever runs again."""
        self.loop.kill()
        self._tasks.abandon()

    def _session_ended(self, what: str, idle: bool) -> None:
        self.fault(TOLD)
        if what == "intake" and not idle:
            self.ended_at = self._world.timeline.now

    async def _connect(self, what: str) -> Connection:
        return await self.line.connect(what)

    def _wake(self) -> None:
        if self.workers is not None:
            self.workers.wake()

    def _written(self, outcomes: list[Outcome], fenced: set[tuple[int, int]], _seconds: float) -> None:
        hear(self.lanes, outcomes, fenced)
        self._wake()
