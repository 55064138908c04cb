"""fleet: several daemons on one database."""

from __future__ import annotations

from bisd.bench import measures
from bisd.bench.cluster import Base
from bisd.bench.figures import Figures, Row, medians, ratio
from bisd.bench.processes import Daemon
from bisd.bench.rig import Rig, until_drained, until_shared

_WEBHOOKS = 256
_FLEETS = (1, 2, 4)
_IN_FLIGHT = 64


async def fleet(rig: Rig) -> list[Row]:
    """1, 2 and 4 daemons, 64 in flight in each, that have divided the shards among them when all becomes owed at once, to 256
    webhooks: 5,000 for each daemon at receivers that take 100 ms, which bind it; then 20,000 for all of them together at
    receivers that answer at once, so that the processor binds. `repeats` are what a webhook was sent twice."""
    rounds: dict[tuple[str, int], list[Figures]] = {(bound, members): [] for bound in ("100 ms", "CPU") for members in _FLEETS}
    for turn in rig.turns("fleet"):
        for members in _FLEETS:
            rig.tell(f"fleet, {members} daemons, round {turn} of {rig.rounds}")
            slow, fast = await _both(rig, members)
            for bound, figures in (("100 ms", slow), ("CPU", fast)):
                rounds[bound, members].append(figures)
                figures["to_one"] = ratio(figures["deliveries"], rounds[bound, 1][-1]["deliveries"])
    return [
        Row("fleet", f"bound by {bound}, {members} daemon{'s' if members > 1 else ''}", medians(figures))
        for (bound, members), figures in rounds.items()
    ]


async def _both(rig: Rig, members: int) -> tuple[Figures, Figures]:
    async with rig.base(2 * _WEBHOOKS) as base:
        await base.subscribe(rig.receivers.waiting(100), 1, _WEBHOOKS)
        await base.subscribe(rig.receivers.stamping(), _WEBHOOKS + 1, 2 * _WEBHOOKS)
        async with rig.daemons(base, members, max_in_flight=_IN_FLIGHT) as running:
            await until_shared(base, running)
            slow = await _deliver(rig, base, running, rig.size(5000, _WEBHOOKS) * members, 1)
            fast = await _deliver(rig, base, running, rig.size(20_000, _WEBHOOKS), _WEBHOOKS + 1)
    return slow, fast


async def _deliver(rig: Rig, base: Base, running: list[Daemon], number: int, first: int) -> Figures:
    last = first + _WEBHOOKS - 1
    await rig.receivers.taken()
    before = await measures.usage(base, running)
    since = await base.owe(number, first, last)
    began, ended = await until_drained(base, since, number, last, first)
    after = await measures.usage(base, running)
    taken = await rig.receivers.taken()
    return {
        "deliveries": number / (ended - began),
        "repeats": taken.repeats,
        "cpu": after.each(before, number)["cpu"],
        "resident": measures.resident(running),
    }
