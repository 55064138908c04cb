"""idle: what a daemon takes that has nothing to do."""

from __future__ import annotations

import asyncio
from time import monotonic

from bisd.bench import measures
from bisd.bench.cluster import Base
from bisd.bench.figures import Figures, Row
from bisd.bench.processes import Daemon
from bisd.bench.rig import Rig

_QUIET = 5.0
_PATIENCE = 60.0
_LOOK = 0.5


async def idle(rig: Rig) -> list[Row]:
    """30 seconds without anything to send, some time after the start: statements a second, shares of a core, and the most that
    was ever resident. With 20 webhooks that are owed nothing; and with 10,000 that are owed a million, all due tomorrow."""
    owed, webhooks = rig.size(1_000_000, 200), rig.size(10_000, 20)
    rows = []
    for case, accounts, number in (("20 webhooks", 20, 0), (f"{owed:,} owed to {webhooks:,} webhooks", webhooks, owed)):
        rig.tell(f"idle, {case}: preparing")
        async with rig.base(accounts) as base:
            await base.subscribe(rig.receivers.at_once("http"), 1, accounts)
            if number:
                await base.owe(number, 1, accounts)
                await base.postpone()
            rig.tell(f"idle, {case}")
            async with rig.daemons(base) as running:
                rows.append(Row("idle", case, await _idle(base, running, rig.seconds(30, 0.5))))
    return rows


async def _idle(base: Base, running: list[Daemon], seconds: float) -> Figures:
    deadline = monotonic() + _PATIENCE
    before = await measures.usage(base, running)
    while monotonic() < deadline:  # until what its start left to do is done
        await asyncio.sleep(_LOOK)
        before, earlier = await measures.usage(base, running), before
        if (before.share(earlier)["cpu_share"] or 0.0) < _QUIET:
            break
    await asyncio.sleep(seconds / 6)
    before = await measures.usage(base, running)
    await asyncio.sleep(seconds)
    after = await measures.usage(base, running)
    return after.share(before) | {"resident": measures.resident(running)}
