"""The world of one seed: the database, the daemons, the receivers, and what befalls them; then all is well, and nothing may be
left."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

import structlog

from bisd import fleet, intake
from bisd.delivery import arrival, writeback
from tests.simulation.daemon import TOLD, Daemon
from tests.simulation.database import Hook, Transaction
from tests.simulation.plan import Plan, draw
from tests.simulation.receivers import Receivers
from tests.simulation.statements import Database
from tests.simulation.timeline import Timeline
from tests.simulation.witness import Violation, Witness

_LOOK_EVERY = 0.25


class World:
    def __init__(self, plan: Plan, seed: int, trace: list[str] | None = None) -> None:
        self.plan = plan
        self.chance = random.Random(seed + 1)
        self.timeline = Timeline()
        self.trace = trace
        self.receivers = Receivers(self.chance, plan.delivery.timeout.total_seconds())
        self.receivers.sorts = dict(plan.sorts)
        self.witness = Witness(self)
        self.database = Database(lambda: self.timeline.now, self.chance, plan.stride, self.witness.deny)
        self.database.settling = self.witness.settling
        self.database.fenced = self.witness.fenced
        self.database.reporting = self.witness.reporting
        self.database.bytes = plan.bytes
        self.database.hooks = {webhook.id: Hook(webhook) for webhook in plan.webhooks}
        self.daemons: list[Daemon] = []
        self._well = self._over = False

    def run(self) -> None:
        """Raises Violation."""
        for number in range(self.plan.daemons):
            self.timeline.after(self.chance.choice((0.0, 0.5, 2.0)) * number, self._start)
        for at, name, arguments in self.plan.script:
            self.timeline.at(at, partial(self._act, name), *arguments)
        self.timeline.after(_LOOK_EVERY, self._watch)
        self.timeline.at(self.plan.lasts, self._heal)
        self.timeline.run(self.plan.lasts + self._patience(), lambda: self._over or self.witness.violation is not None)
        if self.witness.violation is None:
            self.witness.end()
            self._stop_all()
        if self.witness.violation is not None:
            raise self.witness.violation

    def _stop_all(self) -> None:
        """All that is left of the fleet ends in order."""
        left = [daemon for daemon in self.daemons if not daemon.stopped]
        for daemon in left:
            self.witness.ends_clean(daemon)
            daemon.stop()
        self.timeline.run(self.timeline.now + 60.0, lambda: all(daemon.stopped for daemon in left))
        for daemon in left:
            self.witness.watch(daemon)
            if not daemon.stopped:
                self.witness.deny("quiet", f"{daemon.name} does not stop")

    def note(self, what: str, *details: object) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.timeline.now:12.4f} {what} {' '.join(map(str, details))}")

    def _act(self, name: str, *arguments: object) -> None:
        self.note(name, *arguments)
        getattr(self, f"_{name}")(*arguments)

    def _patience(self) -> float:
        """By then everything must have come to an end, once all is well."""
        retry = self.plan.retry
        waits = max(retry.schedule).total_seconds() * 2 + retry.max_retry_after.total_seconds()
        return waits + 900.0 + 600.0 * self.plan.stride

    def _watch(self) -> None:
        """Every quarter of a second: whether a daemon has forgotten something, and whether all is over."""
        for daemon in self.daemons:
            self.witness.watch(daemon)
        if self._well and not self._over:
            self._over = self.witness.is_over()
        self.timeline.after(_LOOK_EVERY * self.plan.stride, self._watch)

    def _heal(self) -> None:
        """All is well from now on."""
        self.note("heal")
        self._well = True
        self.receivers.unreachable = False
        self.receivers.sorts = dict.fromkeys(self.receivers.sorts, "good")
        for daemon in self.daemons:
            daemon.line.slow = 0.0
            daemon.line.down = False
            if not daemon.loop.runs and not daemon.stopped:
                daemon.loop.go_on()
        if not any(daemon.alive and not daemon.stopping.is_set() for daemon in self.daemons):
            self._start()
        for number, hook in self.database.hooks.items():
            if not hook.enabled and self.chance.random() < 0.7:
                self.database.enable(number, False)

    def _start(self) -> None:
        daemon = Daemon(self, f"d{len(self.daemons)}")
        daemon.line.down = any(other.line.down for other in self.daemons)
        self.daemons.append(daemon)
        self.note("start", daemon.name)

    def _daemon(self, which: float) -> Daemon | None:
        alive = [daemon for daemon in self.daemons if daemon.alive and not daemon.stopping.is_set()]
        return alive[int(which * len(alive))] if alive else None

    # The application, people and receivers.

    def _transact(self, lasting: float, accounts: tuple[int, ...], rolled_back: bool) -> None:
        transaction = Transaction(self.database)
        for number, account_id in enumerate(accounts):
            self.timeline.after(lasting * number / len(accounts), transaction.emit, account_id)
        self.timeline.after(lasting, transaction.roll_back if rolled_back else transaction.commit)

    def _event(self, number: int, which: float, owed: bool) -> int | None:
        known = sorted({key[1] for key in (self.database.rows if owed else self.database.attempts) if key[0] == number})
        return known[int(which * len(known))] if known else None

    def _retry(self, number: int, which: float) -> None:
        event_id = self._event(number, which, which < 0.5) or self._event(number, which, False)
        if event_id is not None:
            self.witness.redue.add((number, event_id))
            self.database.retry(number, event_id)

    def _cancel(self, number: int, which: float) -> None:
        event_id = self._event(number, which, True)
        if event_id is not None:
            self.database.cancel(number, event_id)

    def _enable(self, number: int, discard: bool) -> None:
        self.database.enable(number, discard)

    def _disable(self, number: int) -> None:
        self.database.disable(number)

    def _set_webhook(self, number: int, setting: str, chance: float) -> None:
        value = {"rate": (None, 2.0, 30.0), "ordered": (True, False), "max_in_flight": (None, 1, 3)}[setting]
        self.database.set_webhook(number, **{setting: value[int(chance * len(value))]})

    def _replay(self, number: int, per_second: float) -> None:
        self.database.replay(number, per_second)

    def _send_test(self, number: int, times: int) -> None:
        for _ in range(times):
            self.database.send_test(number)

    def _turn(self, number: int, sort: str) -> None:
        self.receivers.sorts[number] = sort

    def _stop_daemon(self, which: float, until: float) -> None:
        """In order; another one is started before or after it has gone."""
        daemon = self._daemon(which)
        if daemon is not None:
            daemon.stop()
            self.timeline.after(until * self.plan.stride, self._start)

    # Faults.

    def _crash(self, which: float, lasting: float) -> None:
        daemon = self._daemon(which)
        if daemon is not None:
            daemon.kill(silently=which % 0.1 < 0.05)
            self.timeline.after(lasting, self._start)

    def _hang(self, which: float, lasting: float) -> None:
        daemon = self._daemon(which)
        if daemon is not None:
            daemon.fault(lasting + TOLD)
            daemon.loop.stop()
            self.timeline.after(lasting, daemon.loop.go_on)

    def _silence(self, which: float, _lasting: float) -> None:
        """What is open goes silent; new connections work."""
        daemon = self._daemon(which)
        if daemon is not None:
            daemon.fault(20.0 * self.plan.stride)
            daemon.line.cut(None if which % 0.1 < 0.05 else "intake", silently=True)

    def _slowness(self, which: float, lasting: float) -> None:
        daemon = self._daemon(which)
        if daemon is not None:
            daemon.fault(lasting + 20.0 * self.plan.stride)
            daemon.line.slow = which * 12.0 * self.plan.stride
            self.timeline.after(lasting, setattr, daemon.line, "slow", 0.0)

    def _cut(self, which: float, _lasting: float) -> None:
        daemon = self._daemon(which)
        if daemon is not None:
            daemon.fault()
            daemon.line.cut("writeback" if which % 0.1 < 0.05 else "intake", silently=False)

    def _database(self, _which: float, lasting: float) -> None:
        """The server restarts, and is away for a while."""
        for daemon in self.daemons:
            daemon.fault(lasting)
            daemon.line.cut(silently=False)
            daemon.line.down = True
            self.timeline.after(lasting, setattr, daemon.line, "down", False)

    def _no_network(self, _which: float, lasting: float) -> None:
        self.receivers.unreachable = True
        self.timeline.after(lasting, setattr, self.receivers, "unreachable", False)


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """While this lasts the daemon's parts live by the world's time and chance, tend to their work as its stride says, and read
    as much at once as its plan says."""
    plan, stride = world.plan, world.plan.stride

    def ticks() -> float:
        return world.timeline.now

    known = structlog.get_config()
    with ExitStack() as patched:
        for module, name, value in (
            (intake, "monotonic", ticks),
            (intake, "ticks", ticks),
            (intake, "_TEND_EVERY", intake._TEND_EVERY * stride),
            (intake, "_REFILL_ROWS", plan.rows),
            (intake, "_OPEN_AT_ONCE", plan.at_once),
            (intake, "Arrival", partial(arrival.Arrival, most=plan.arrivals)),
            (arrival, "ticks", ticks),
            (arrival, "_SWEEP", arrival._SWEEP * stride),
            (writeback, "monotonic", ticks),
            (writeback, "_BATCH", plan.batch),
            (fleet, "_SURE", fleet._SURE * stride),
        ):
            patched.enter_context(patch.object(module, name, value))
        structlog.configure(processors=[partial(_tell, world)], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**known)


def _tell(world: World, _logger: object, _method: str, line: dict[str, object]) -> str:
    world.note("log", *(f"{name}={value}" for name, value in line.items()))
    raise structlog.DropEvent


def play(seed: int, long: bool | None = None, trace: list[str] | None = None) -> None:
    """Lives through one seed. Raises Violation."""
    random.seed(seed)
    world = World(draw(seed, long), seed, trace)
    gc.disable()  # what it finds has no place in virtual time
    try:
        with simulated(world):
            world.run()
    finally:
        for daemon in world.daemons:
            daemon.abandon()
        gc.enable()


__all__ = ["Violation", "World", "play"]
