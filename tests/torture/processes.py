"""What befalls a daemon's process short of kill -9: it hangs, is told to stop or to reread, comes and goes, has no files."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections.abc import Awaitable, Callable

import psutil

from tests.torture.kills import leave
from tests.torture.seat import Seat
from tests.torture.world import World

Strike = Callable[[World, Seat, random.Random], Awaitable[None]]


async def hang(world: World, seat: Seat, rng: random.Random) -> None:
    """SIGSTOP, for less or for longer than anybody waits for it; what it held goes to the others, if so."""
    seconds = rng.choice((1.0, 3.0, 6.0, 9.0, 14.0))
    fault = world.fault(f"hangs for {seconds:g} s", cuts=True, pid=seat.daemon.pid)
    seat.daemon.suspend()
    await asyncio.sleep(seconds)
    seat.daemon.resume()
    fault.end()


async def restart(world: World, seat: Seat, rng: random.Random) -> None:
    """SIGTERM under load, once or twice; and a new one."""
    await leave(world, seat, rng)
    await seat.sit()


async def stop_early(world: World, seat: Seat, rng: random.Random) -> None:
    """SIGTERM before it is ready, or just after."""
    await leave(world, seat, rng)
    await seat.launch()
    fault = world.fault("SIGTERM during the start", cuts=False, pid=seat.daemon.pid)
    await asyncio.sleep(rng.uniform(0, 1.2))
    status = await seat.daemon.stop()
    fault.end()
    if status not in (0, -signal.SIGTERM):  # -SIGTERM: Python had not come to where it is heeded
        world.wrong.append(f"{seat.name} was told to stop while it started, and ended with {status}")
    await seat.sit()


async def reread(world: World, seat: Seat, rng: random.Random) -> None:
    """A storm of SIGHUP; now and then SIGTERM in the middle of it."""
    fault = world.fault("SIGHUP, 100 times", cuts=False, pid=seat.daemon.pid)
    for _ in range(100):
        seat.daemon.send(signal.SIGHUP)
        await asyncio.sleep(rng.uniform(0, 0.02))
    fault.end()
    if rng.random() < 0.5:
        await restart(world, seat, rng)


async def exhaust(world: World, seat: Seat, rng: random.Random) -> None:
    """It may open no more files than it has open, for a while."""
    process = psutil.Process(seat.daemon.pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    fault = world.fault("no file descriptors", cuts=False, pid=seat.daemon.pid)
    process.rlimit(resource.RLIMIT_NOFILE, (max(16, process.num_fds() - 4), before[1]))
    await asyncio.sleep(rng.uniform(1, 4))
    process.rlimit(resource.RLIMIT_NOFILE, before)
    fault.end()


async def absent(world: World, seat: Seat, rng: random.Random) -> None:
    """It leaves, and nobody takes its seat for a while."""
    await leave(world, seat, rng)
    await asyncio.sleep(rng.uniform(0, 4))
    await seat.sit()


STRIKES: tuple[Strike, ...] = (hang, restart, stop_early, reread, exhaust, absent)
