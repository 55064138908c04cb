"""A round: a world of a seed, what is broken in it, and what the checker says in the end."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import trustme

from tests.support.pair import Pair
from tests.support.postgres import Server
from tests.torture.checker import check
from tests.torture.commands import Trials
from tests.torture.databases import STRIKES as ON_DATABASES
from tests.torture.databases import fail_over
from tests.torture.kills import kill, leave, ways
from tests.torture.ledger import Fault
from tests.torture.processes import STRIKES as ON_PROCESSES
from tests.torture.seat import Seat
from tests.torture.soak import soak
from tests.torture.weather import weather
from tests.torture.world import World, opened, recover, recovered

# Seconds for what was broken last to be seen to have healed.
_AFTERWARDS = 3.0

Act = Callable[[World, int], Awaitable[None]]
Way = TypeVar("Way", bound=Callable[..., object])


@dataclass
class Result:
    """`faults` with their repeats and times of recovery; `wrong`: a sentence for everything that is not as it should be;
    `notes`: what else there is to tell."""

    seed: int
    profile: str
    events: int = 0
    deliveries: int = 0
    requests: int = 0
    faults: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """What came of another round is part of this one."""
        self.events += other.events
        self.deliveries += other.deliveries
        self.requests += other.requests
        self.faults += other.faults
        self.wrong += other.wrong
        self.notes += other.notes


@dataclass(frozen=True)
class Place:
    """Where rounds are played; `only`: with faults of this name, and no others."""

    server: Server
    authority: trustme.CA
    ca_file: Path
    directory: Path
    only: str | None = None


async def kills(world: World, trials: int) -> None:
    """All daemons but one die again and again, each for itself, and another one takes its seat."""
    left = iter(range(trials))

    async def strike(seat: Seat, rng: random.Random) -> None:
        await leave(world, seat, rng)
        for _, way in zip(left, ways(rng), strict=False):
            await kill(world, seat, way, rng)
        await seat.sit()

    async with asyncio.TaskGroup() as group:
        for seat in world.seats[1:]:
            group.create_task(strike(seat, random.Random(world.rng.random())))


async def processes(world: World, trials: int) -> None:
    """What befalls processes, one after the other, whichever it hits; at times two at once."""
    left = iter(range(trials))

    async def strike(seats: list[Seat], rng: random.Random) -> None:
        for _, way in zip(left, _in_turn(world, ON_PROCESSES, rng), strict=False):
            await way(world, rng.choice(seats), rng)
            await asyncio.sleep(rng.uniform(0, 1))

    async with asyncio.TaskGroup() as group:
        for seats in (world.seats[:1], world.seats[1:]):
            group.create_task(strike(seats, random.Random(world.rng.random())))


async def databases(world: World, trials: int) -> None:
    """What befalls the database, one fault after the other."""
    ways = _in_turn(world, ON_DATABASES, world.rng)
    for _, way in zip(range(trials), ways, strict=False):
        await asyncio.sleep(world.rng.uniform(0.5, 2.5))
        await way(world, world.rng)
        await recovered(world, world.ledger.faults[-1])


async def quiet(world: World, trials: int) -> None:
    """Nothing is broken, for so many tenths of a second."""
    await asyncio.sleep(trials / 10)


def _in_turn(world: World, ways: Sequence[Way], rng: random.Random) -> Iterator[Way]:
    """All that are wanted, each as often as the others, in an order of its own."""
    wanted = [way for way in ways if world.only in (None, way.__name__)]
    return cycle(rng.sample(wanted, len(wanted)))


async def commands(place: Place, seed: int, trials: int) -> Result:
    """A round without a fleet."""
    directory = Path(tempfile.mkdtemp(dir=place.directory))
    struck = Trials(place.server, directory, random.Random(seed))
    await struck.run(trials)
    return Result(seed, "commands", faults=struck.faults, wrong=struck.wrong)


async def failovers(place: Place, seed: int, trials: int) -> Result:
    """So many rounds in one, each with a primary and a standby of its own, the one of which is lost."""
    result = Result(seed, "failovers")
    for trial in range(trials):
        primary = await asyncio.to_thread(Server)
        name = urlsplit(await primary.create()).path[1:]
        standby = await asyncio.to_thread(primary.standby)
        pair = Pair(primary, standby, name)
        try:
            result.add(await fleet(partial(fail_over, pair), 2, place, seed + trial, 1, pair))
        finally:
            await asyncio.to_thread(standby.remove)
            await asyncio.to_thread(primary.remove)
    return result


async def fleet(act: Act, seats: int, place: Place, seed: int, trials: int, pair: Pair | None = None) -> Result:
    """A round in a world at work, with so many daemons."""
    directory = Path(tempfile.mkdtemp(dir=place.directory))
    server = place.server if pair is None else pair.primary
    async with opened(seed, server, place.authority, place.ca_file, directory, seats, pair) as world:
        world.only = place.only
        async with asyncio.TaskGroup() as group:
            changing = group.create_task(weather(world, random.Random(world.rng.random())))
            await act(world, trials)
            await asyncio.sleep(_AFTERWARDS)
            changing.cancel()
        facts = await world.settle()
        ledger = world.ledger
        wrong = world.wrong + check(ledger, facts, world.terms())
        for fault in ledger.faults:
            fault.recovered = recover(world, fault)
        name = getattr(act, "__name__", "")
        return Result(seed, name, len(facts.events), len(facts.states), len(ledger.requests), ledger.faults, wrong, world.notes)


# By name: a round of a seed, with so many trials.
PROFILES: dict[str, Callable[[Place, int, int], Coroutine[None, None, Result]]] = {
    "quiet": partial(fleet, quiet, 3),
    "kills": partial(fleet, kills, 4),
    "processes": partial(fleet, processes, 3),
    "databases": partial(fleet, databases, 2),
    "failovers": failovers,
    "commands": commands,
    "soak": partial(fleet, soak, 2),
}
