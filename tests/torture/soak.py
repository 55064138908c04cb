"""Soak: a steady rate for long, merchants of whom one in twenty is hostile, a restart now and then; and nothing grows."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import count
from statistics import linear_regression, median
from time import monotonic

import psutil

from tests.torture.kills import leave
from tests.torture.merchants import CALM
from tests.torture.world import World

# Seconds.
_EVERY = 5.0
_RESTART_EVERY = 120.0
# Of what was sampled the first part is left out: a process that has just begun still grows.
_WARM = 0.25
_SIZE = "select pg_total_relation_size('bisd.delivery')"
# How much each may grow in an hour, by the line that fits it best: octets, and numbers.
_MOST = {"memory": 8 << 20, "files": 4.0, "connections": 4.0, "workers": 10.0, "table": 1 << 20}


@dataclass(frozen=True)
class Sample:
    """Of the daemon that is never restarted, and of the table of what is owed; `at`: seconds."""

    at: float
    memory: float
    files: float
    connections: float
    workers: float
    table: float


async def soak(world: World, trials: int) -> None:
    """For so many minutes. But for the hostile merchant they are such that what comes can be sent: nothing piles up."""
    world.moods = CALM
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(world, samples))
        restarting = group.create_task(_restart(world, random.Random(world.rng.random())))
        await asyncio.sleep(60 * trials)
        watching.cancel()
        restarting.cancel()
    for seat in world.seats[1:]:
        if not seat.runs:
            await seat.sit()
    world.notes += _judged(world, samples)


async def _restart(world: World, rng: random.Random) -> None:
    """The others leave and come back, in turn."""
    for number in count():
        await asyncio.sleep(rng.uniform(0.5, 1.0) * _RESTART_EVERY)
        seat = world.seats[1 + number % (len(world.seats) - 1)]
        await leave(world, seat, rng)
        await seat.sit()


async def _watch(world: World, samples: list[Sample]) -> None:
    seat = world.seats[0]
    process = psutil.Process(seat.daemon.pid)
    while True:
        connection = await world.connect()
        try:
            table = await connection.fetchval(_SIZE)
        finally:
            connection.terminate()
        workers = (await seat.samples())["bisd_workers"]
        connections = len(process.net_connections("tcp"))
        samples.append(Sample(monotonic(), process.memory_info().rss, process.num_fds(), connections, workers, table))
        await asyncio.sleep(_EVERY)


def _judged(world: World, samples: list[Sample]) -> list[str]:
    """How much each has grown in an hour; what has grown too much is wrong."""
    settled = samples[int(len(samples) * _WARM) :]
    times = [sample.at / 3600 for sample in settled]
    notes = []
    for name, most in _MOST.items():
        values = [getattr(sample, name) for sample in settled]
        growth = linear_regression(times, values).slope
        quarters = [median(values[len(values) * n // 4 : len(values) * (n + 1) // 4]) for n in range(4)]
        notes.append(
            f"{name}: from {min(values):,.0f} to {max(values):,.0f}, {growth:+,.0f} in an hour; "
            f"of each quarter the median: {', '.join(f'{one:,.0f}' for one in quarters)}"
        )
        # Short as it may be, what it has grown by must be worth speaking of.
        if growth > most and growth * (times[-1] - times[0]) > 0.05 * median(values):
            world.wrong.append(f"{name} grows by {growth:,.0f} in an hour, from {values[0]:,.0f} to {values[-1]:,.0f}")
    return notes
