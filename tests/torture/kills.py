"""kill -9 of daemons: where a trap is set, where a merchant lies in wait, or at any moment."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle

from tests.torture.merchants import STAGES, Ambush
from tests.torture.seat import Seat
from tests.torture.trap import COMMANDS, ENDING, POINTS
from tests.torture.world import World

# Seconds that a daemon gets to come by its point; then it is killed all the same. And until it holds shards, if any are left.
_PATIENCE = 6.0
_ANY_MOMENT = "at any moment"
_WAYS = [
    *(f"at: {name}" for name in POINTS if name not in COMMANDS),
    *(f"by its receiver: {stage}" for stage in STAGES),
    *[_ANY_MOMENT] * 4,
]


def ways(rng: random.Random) -> Iterator[str]:
    """How to die, in turn, every way as often as the others, in an order of its own."""
    return cycle(rng.sample(_WAYS, len(_WAYS)))


async def kill(world: World, seat: Seat, way: str, rng: random.Random) -> None:
    """A daemon takes the seat, gets shards, and dies."""
    where, _, name = way.partition(": ")
    if where != "at":
        await seat.sit()
        await _share(world, seat)
        await (_ambushed(world, seat, name, rng) if name else _any_moment(world, seat, rng))
        return
    point = POINTS[name]
    await seat.launch((name, rng.randint(1, point.passes), rng.randrange(1 << 30)))
    if not point.armed and await seat.daemon.ready():
        await _share(world, seat)
        seat.daemon.send(signal.SIGUSR1)
        if name in ENDING:
            await leave(world, seat, rng)
            return
    await _dies(world, seat, way)


async def leave(world: World, seat: Seat, rng: random.Random) -> None:
    """It is told to stop, now and then twice: then what is in flight is cut short. With a trap it may die of it."""
    twice = rng.random() < 0.3
    fault = world.fault("SIGTERM twice" if twice else "SIGTERM", cuts=twice, pid=seat.daemon.pid)
    seat.daemon.send(signal.SIGTERM)
    if twice:
        await asyncio.sleep(rng.uniform(0, 0.2))
        seat.daemon.send(signal.SIGTERM)
    status = await asyncio.wait_for(seat.daemon.ended(), 60)
    fault.end()
    if status == -signal.SIGKILL:
        fault.name, fault.cuts = f"kill -9 while it stops, after {fault.name}", True
    elif status != 0 and not (twice and status == -signal.SIGTERM):  # the second one found only Python, about to end
        world.wrong.append(f"{seat.name} was told to stop, and ended with {status}")


async def _share(world: World, seat: Seat) -> None:
    """Waits until it has shards, or has had the time to get some."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while not world.held(seat.daemon.pid):
                await asyncio.sleep(0.05)


async def _any_moment(world: World, seat: Seat, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0, 1))
    seat.daemon.send(signal.SIGKILL)
    await _dies(world, seat, _ANY_MOMENT)


async def _ambushed(world: World, seat: Seat, stage: str, rng: random.Random) -> None:
    ambush = Ambush(stage, rng.randint(1, 40), seat.daemon.pid)
    world.merchants.ambushes.append(ambush)
    await _dies(world, seat, f"by its receiver: {stage}")
    if ambush in world.merchants.ambushes:
        world.merchants.ambushes.remove(ambush)


async def _dies(world: World, seat: Seat, way: str) -> None:
    """Waits until it dies; helps if it takes too long."""
    pid = seat.daemon.pid
    try:
        await asyncio.wait_for(seat.daemon.ended(), _PATIENCE)
    except TimeoutError:
        way = _ANY_MOMENT
    status = await seat.daemon.kill()
    world.fault(f"kill -9 {way}", cuts=True, pid=pid).end()
    if status != -signal.SIGKILL:
        world.wrong.append(f"{seat.name} was to die {way}, and ended with {status}: {seat.daemon.log[-500:]}")
