"""fleet: several daemons on one database."""

from __future__ import annotations

from bisd.bench import measures
from bisd.bench.figures import Figures, Row, medians, ratio
from bisd.bench.rig import Rig, until_drained, until_shared

_WEBHOOKS = 256
_FLEETS = (1, 2, 4)


async def fleet(rig: Rig) -> list[Row]:
    """1, 2 and 4 daemons that have divided the shards among them when all becomes owed at once, to 256 webhooks: 5,000 for each
    daemon at receivers that take 100 ms, 64 in flight in each, so that a daemon is bound by those; and 20,000 for all of them
    together at receivers that answer at once, so that the processor binds. `repeats` are what a webhook was sent twice."""
    rounds: dict[tuple[str, int], list[Figures]] = {(bound, members): [] for bound in ("100 ms", "CPU") for members in _FLEETS}
    for turn in rig.turns("fleet"):
        for (bound, members), figures in rounds.items():
            rig.tell(f"fleet, bound by {bound}, {members} daemons, round {turn} of {rig.rounds}")
            if bound == "100 ms":
                one = await _deliver(rig, rig.receivers.waiting(100), rig.size(5000, 256) * members, members, in_flight=64)
            else:
                one = await _deliver(rig, rig.receivers.stamping(), rig.size(20_000, 256), members, in_flight=512)
            figures.append(one)
            one["to_one"] = ratio(one["deliveries"], rounds[bound, 1][-1]["deliveries"])
    return [
        Row("fleet", f"bound by {bound}, {members} daemon{'s' if members > 1 else ''}", medians(figures))
        for (bound, members), figures in rounds.items()
    ]


async def _deliver(rig: Rig, url: str, number: int, members: int, in_flight: int) -> Figures:
    async with rig.base(_WEBHOOKS) as base:
        await base.subscribe(url, 1, _WEBHOOKS)
        async with rig.daemons(base, members, max_in_flight=in_flight) as running:
            await until_shared(base, running)
            await rig.receivers.taken()
            since = await base.owe(number, 1, _WEBHOOKS)
            before = await measures.usage(base, running)
            began, ended = await until_drained(base, since, number, _WEBHOOKS)
            after = await measures.usage(base, running)
            taken = await rig.receivers.taken()
            resident = measures.resident(running)
    return {
        "deliveries": number / (ended - began),
        "repeats": taken.repeats,
        **after.each(before, number),
        "resident": resident,
    }
