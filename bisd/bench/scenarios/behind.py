"""dead, history, pinned: what lies behind, or beside, must not slow what is delivered. Each runs with it and without it, turn
and turn about, and compares the two of the same round."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from bisd import db
from bisd.bench.cluster import Base
from bisd.bench.figures import Figures, Row, medians, ratio
from bisd.bench.rig import Rig, drained, until_drained

_WEBHOOKS = 20
_DAYS = 30
_WAVES = 5


async def dead(rig: Rig) -> list[Row]:
    """20,000 to 20 webhooks, while a million are owed to another, whose port is closed. `start` is from the daemon's process to
    its first POST to one of the 20."""
    owed = rig.size(1_000_000)
    async with rig.base(_WEBHOOKS + 1) as without, rig.base(_WEBHOOKS + 1) as beside:
        for base in (without, beside):
            await base.subscribe(rig.receivers.at_once("http"), 1, _WEBHOOKS)
        await beside.subscribe(rig.receivers.dead(), _WEBHOOKS + 1, _WEBHOOKS + 1)
        rig.tell(f"dead: preparing {owed:,} that are owed")
        await beside.owe(owed, _WEBHOOKS + 1, _WEBHOOKS + 1)
        return await _compared(rig, "dead", without, beside, f"{owed:,} owed to a dead URL")


async def history(rig: Rig) -> list[Row]:
    """20,000 to 20 webhooks, with ten million attempts of thirty days behind."""
    attempts = rig.size(10_000_000, 3000)
    async with rig.base(_WEBHOOKS) as without, rig.base(_WEBHOOKS) as behind:
        for base in (without, behind):
            await base.subscribe(rig.receivers.at_once("http"), 1, _WEBHOOKS)
        rig.tell(f"history: preparing {attempts:,} attempts")
        await behind.remember(attempts, _DAYS, _WEBHOOKS)
        return await _compared(rig, "history", without, behind, f"{attempts:,} attempts behind")


async def pinned(rig: Rig) -> list[Row]:
    """Five times 20,000 to 20 webhooks through one daemon, with a transaction left open from before the first, so that nothing
    can be vacuumed: the last 20,000, beside the same without it."""
    number = rig.size(20_000)
    rounds: dict[bool, list[Figures]] = {False: [], True: []}
    for turn in rig.turns("pinned"):
        for pin, figures in rounds.items():
            rig.tell(f"pinned, {'with' if pin else 'without'} it, round {turn} of {rig.rounds}")
            figures.append(await _waves(rig, number, pin))
        _compare(rounds[False][-1], rounds[True][-1])
    cases = {False: "without", True: "a transaction left open"}
    return [Row("pinned", cases[pin], medians(figures)) for pin, figures in rounds.items()]


async def _compared(rig: Rig, scenario: str, without: Base, beside: Base, case: str) -> list[Row]:
    number = rig.size(20_000)
    rounds: dict[str, list[Figures]] = {"without": [], case: []}
    for turn in rig.turns(scenario):
        for (name, figures), base in zip(rounds.items(), (without, beside), strict=True):
            rig.tell(f"{scenario}, {name}, round {turn} of {rig.rounds}")
            figures.append(await drained(rig, base, number, _WEBHOOKS))
        _compare(rounds["without"][-1], rounds[case][-1])
    return [Row(scenario, name, medians(figures)) for name, figures in rounds.items()]


def _compare(without: Figures, beside: Figures) -> None:
    without["ratio"] = 1.0
    beside["ratio"] = ratio(beside["deliveries"], without["deliveries"])


async def _waves(rig: Rig, number: int, pin: bool) -> Figures:
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(rig.base(_WEBHOOKS))
        await base.subscribe(rig.receivers.at_once("http"), 1, _WEBHOOKS)
        if pin:
            await stack.enter_async_context(_pin(base))
        await stack.enter_async_context(rig.daemons(base))
        for _ in range(_WAVES):
            since = await base.owe(number, 1, _WEBHOOKS)
            began, ended = await until_drained(base, since, number, _WEBHOOKS)
    return {"deliveries": number / (ended - began)}


@asynccontextmanager
async def _pin(base: Base) -> AsyncIterator[None]:
    """Holds a transaction open that has an id and a snapshot."""
    connection = await db.connect(base.dsn)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval(db.query("bench_pin"))
            yield
    finally:
        await connection.close()
