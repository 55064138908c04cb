"""drain, cold, slow: how many a second, beside what the bare client does with the same."""

from __future__ import annotations

from bisd.bench.figures import Figures, Row, medians, ratio
from bisd.bench.receivers import Taken
from bisd.bench.rig import Rig, drained

_IN_FLIGHT = 64
_SETTINGS = {"max_in_flight": _IN_FLIGHT, "max_in_flight_per_webhook": _IN_FLIGHT}


async def drain(rig: Rig) -> list[Row]:
    """20,000 that are owed already, over HTTP and HTTPS, to 1, 20 and 2,000 webhooks, 64 in flight: deliveries a second and
    what each costs. In every round the bare client sends as many, just before; `ratio` is to that, `to_20` to 20 webhooks."""
    number = rig.size(20_000)
    rounds: dict[str, list[Figures]] = {}
    for turn in rig.turns("drain"):
        for scheme in ("http", "https"):
            url = rig.receivers.at_once(scheme)
            ceiling = await rig.bare(url, number, 20, _IN_FLIGHT)
            done: dict[int, Figures] = {}
            for webhooks in (20, 1, rig.size(2000)):
                rig.tell(f"drain, {scheme}, {webhooks} webhooks, round {turn} of {rig.rounds}")
                done[webhooks] = await _drain(rig, url, number, webhooks)
            for webhooks, figures in sorted(done.items()):
                to_bare = ratio(figures["deliveries"], ceiling["bare"])
                to_20 = ratio(figures["deliveries"], done[20]["deliveries"])
                case = rounds.setdefault(f"{scheme}, {webhooks} webhook{'s' if webhooks > 1 else ''}", [])
                case.append({"ratio": to_bare, "to_20": to_20} | figures | ceiling)
    return [Row("drain", case, medians(figures)) for case, figures in rounds.items()]


async def cold(rig: Rig) -> list[Row]:
    """4,000 over HTTPS to a receiver that closes the connection after every answer: a handshake for each. The bare client of
    the same round does the same."""
    number = rig.size(4000)
    url = rig.receivers.closing("https")
    rounds: list[Figures] = []
    for _ in rig.turns("cold"):
        ceiling = await rig.bare(url, number, 20, _IN_FLIGHT)
        figures = await _drain(rig, url, number, 20)
        rounds.append({"ratio": ratio(figures["deliveries"], ceiling["bare"])} | figures | ceiling)
    return [Row("cold", "a TLS connection each", medians(rounds))]


async def slow(rig: Rig) -> list[Row]:
    """40,000 to 1,000 webhooks that take 100 ms, and 1 s, to answer, max_in_flight 4,500: how many are in flight at most, as
    the receiver counts, and how many a second come in the middle half of them (`sustained`)."""
    number, webhooks = rig.size(40_000, 200), rig.size(1000, 20)
    rounds: dict[int, list[Figures]] = {100: [], 1000: []}
    for turn in rig.turns("slow"):
        for wait, figures in rounds.items():
            rig.tell(f"slow, {wait} ms, round {turn} of {rig.rounds}")
            await rig.receivers.taken()
            done = await _drain(rig, rig.receivers.waiting(wait), number, webhooks, max_in_flight=4500)
            taken = await rig.receivers.taken()
            done |= {"in_flight": taken.peak, "sustained": _sustained(taken), "repeats": taken.repeats}
            figures.append(done)
    return [Row("slow", f"{wait} ms", medians(figures)) for wait, figures in rounds.items()]


async def _drain(rig: Rig, url: str, number: int, webhooks: int, **settings: int) -> Figures:
    async with rig.base(webhooks) as base:
        await base.subscribe(url, 1, webhooks)
        return await drained(rig, base, number, webhooks, **(settings or _SETTINGS))


def _sustained(taken: Taken) -> float:
    """Per second, between the first and the last quarter."""
    times = sorted(stamp.at for stamp in taken.stamps)
    quarter = len(times) // 4
    return (len(times) - 2 * quarter) / (times[-quarter - 1] - times[quarter])
