"""latency, hostile, pages, soak: an application inserts at a steady rate, whatever comes of it. A latency is counted from when
its notification was to be inserted, not from when that was done: what waits behind a delay is delayed (no coordinated
omission)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from bisd import db
from bisd.bench import measures
from bisd.bench.cluster import Base, require
from bisd.bench.figures import Figures, Point, Row, medians, percentile, ratio, spread
from bisd.bench.processes import Daemon, asked
from bisd.bench.reader import reading
from bisd.bench.receivers import Taken
from bisd.bench.rig import Rig, until_drained

_WEBHOOKS = 20
_RATES = (50, 200, 1000)
_SOAK_RATE = 200
_HOSTILE_RATE = 1000
_READ_RATE = 2000
_READ_EVERY = 2.0
_PAGES = (
    "/", "/accounts", "/accounts/1/webhooks", "/accounts/1/webhooks/1", "/accounts/1/deliveries",
    "/accounts/1/deliveries?state=failed", "/accounts/1/deliveries?webhook=1", "/accounts/1/api",
)  # fmt: skip
_ATTEMPTS = 1_000_000
_DAYS = 30


class Passage(NamedTuple):
    """One notification's way, in seconds: when it was to be inserted, when its commit returned, when its webhook came."""

    intended: float
    committed: float
    arrived: float


@dataclass(frozen=True, slots=True)
class Run:
    """What a while of selling showed. `began`: when the first was to be inserted; `peak`: most at once, at the receiver."""

    began: float
    passages: list[Passage]
    peak: int
    repeats: int

    def since(self, seconds: float) -> list[Passage]:
        return [passage for passage in self.passages if passage.intended >= self.began + seconds]

    def points(self) -> list[Point]:
        buckets: defaultdict[int, list[float]] = defaultdict(list)
        for passage in self.passages:
            buckets[int(passage.intended - self.began)].append((passage.arrived - passage.intended) * 1000)
        return [
            Point(second, percentile(ordered, 50), percentile(ordered, 99))
            for second, waits in sorted(buckets.items())
            for ordered in [sorted(waits)]
        ]


async def latency(rig: Rig) -> list[Row]:
    """50, 200 and 1,000 a second for 20 seconds, to 20 webhooks: from the insert's time to arrival (p50 to max), from the
    commit's return to arrival (commit_...), and from the insert's time to the commit's return (insert_...)."""
    rows = []
    for rate in _RATES:
        rounds: list[Figures] = []
        for _ in rig.turns(f"latency at {rate}/s"):
            async with rig.base(_WEBHOOKS) as base:
                await base.subscribe(rig.receivers.stamping(), 1, _WEBHOOKS)
                async with rig.daemons(base) as running:
                    before = await measures.usage(base, running)
                    run = await _sell(rig, base, rate, rig.seconds(20, 0.5), _WEBHOOKS, _WEBHOOKS)
                    after = await measures.usage(base, running)
                rounds.append(_passing(run.passages) | after.each(before, len(run.passages)) | {"repeats": run.repeats})
        rows.append(Row("latency", f"{rate:,}/s", medians(rounds), run.points()))
    return rows


async def hostile(rig: Rig) -> list[Row]:
    """1,000 a second, in turn of 1,000 accounts, for 40 seconds; 100 have a webhook that answers at once, 900 one that hangs
    until the timeout of 5 s, or none. What the 100 get, and when, from the 10th second on; the ratios are to that without."""
    accounts, seconds = rig.size(1000, 50), rig.seconds(40, 2.0)
    rounds: dict[bool, list[Figures]] = {False: [], True: []}
    points: dict[bool, list[Point]] = {}
    for turn in rig.turns("hostile"):
        for hung, figures in rounds.items():
            rig.tell(f"hostile, {'with' if hung else 'without'} hung webhooks, round {turn} of {rig.rounds}")
            run = await _beside_hung(rig, accounts, seconds, hung)
            figures.append(_from(run, seconds, seconds / 4))
            points[hung] = run.points()
        without, beside = rounds[False][-1], rounds[True][-1]
        without |= {"ratio": 1.0, "p99_ratio": 1.0}
        beside["ratio"] = ratio(beside["sustained"], without["sustained"])
        beside["p99_ratio"] = ratio(beside["p99"], without["p99"])
    cases = {False: "without", True: f"{accounts - accounts // 10:,} of {accounts:,} hang"}
    return [Row("hostile", cases[hung], medians(figures), points[hung]) for hung, figures in rounds.items()]


async def pages(rig: Rig) -> list[Row]:
    """2,000 a second to 20 webhooks for 20 seconds, with a million attempts of 30 days behind, while somebody has a live page
    open and reads another one every other second; turn and turn about with the same while nobody looks. `page_...`: how long
    a page took."""
    rate, seconds = rig.size(_READ_RATE, 100), rig.seconds(20, 2.0)
    rounds: dict[bool, list[Figures]] = {False: [], True: []}
    points: dict[bool, list[Point]] = {}
    async with rig.base(_WEBHOOKS) as base:
        await base.subscribe(rig.receivers.stamping(), 1, _WEBHOOKS)
        attempts = rig.size(_ATTEMPTS, 3000)
        rig.tell(f"pages: preparing {attempts:,} attempts")
        await base.remember(attempts, _DAYS, _WEBHOOKS)
        async with rig.daemon_with_pages(base):
            await _sell(rig, base, rate, seconds / 4, _WEBHOOKS, _WEBHOOKS)  # what is done once is in neither
            for turn in rig.turns("pages"):
                for read in (False, True) if turn % 2 else (True, False):
                    rig.tell(f"pages, {'read' if read else 'not read'}, round {turn} of {rig.rounds}")
                    took: list[float] = []
                    async with AsyncExitStack() as stack:
                        if read:
                            took = await stack.enter_async_context(reading(rig.face, _PAGES, min(_READ_EVERY, seconds / 4)))
                        run = await _sell(rig, base, rate, seconds, _WEBHOOKS, _WEBHOOKS)
                    page = spread(took) if took else dict.fromkeys(("p50", "max"))
                    figures = {"repeats": run.repeats, "page_p50": page["p50"], "page_max": page["max"]}
                    rounds[read].append(_passing(run.passages) | figures)
                    points[read] = run.points()
                without, beside = rounds[False][-1], rounds[True][-1]
                without["p99_ratio"], beside["p99_ratio"] = 1.0, ratio(beside["p99"], without["p99"])
    cases = {False: "nobody looks", True: "pages are read"}
    return [Row("pages", cases[read], medians(figures), points[read]) for read, figures in rounds.items()]


async def soak(rig: Rig) -> list[Row]:
    """200 a second for five minutes: latency and resident memory of the first third and of the last."""
    seconds = rig.seconds(300, 1.5)
    rig.tell(f"soak for {seconds:.0f} s")
    async with rig.base(_WEBHOOKS) as base:
        await base.subscribe(rig.receivers.stamping(), 1, _WEBHOOKS)
        async with rig.daemons(base) as running, asyncio.TaskGroup() as group:
            watching = group.create_task(_watch(running[0], seconds))
            run = await _sell(rig, base, _SOAK_RATE, seconds, _WEBHOOKS, _WEBHOOKS)
            held = await watching
    third = seconds / 3
    first = [passage for passage in run.passages if passage.intended < run.began + third]
    early, late = max(held[: len(held) // 3]), max(held[-len(held) // 3 :])
    return [
        Row("soak", "all of it", _passing(run.passages) | {"resident": max(held), "growth": None}, run.points()),
        Row("soak", "first third", _passing(first) | {"resident": early, "growth": 0.0}),
        Row("soak", "last third", _passing(run.since(2 * third)) | {"resident": late, "growth": late - early}),
    ]


async def _watch(daemon: Daemon, seconds: float) -> list[float]:
    """Its resident memory, thirty times."""
    held = []
    for _ in range(30):
        await asyncio.sleep(seconds / 30)
        held.append(measures.resident_now(daemon))
    return held


async def _beside_hung(rig: Rig, accounts: int, seconds: float, hung: bool) -> Run:
    healthy = accounts // 10
    async with rig.base(accounts) as base:
        await base.subscribe(rig.receivers.stamping(), 1, healthy)
        if hung:
            await base.subscribe(rig.receivers.hanging(), healthy + 1, accounts)
        async with rig.daemons(base, timeout="5s", connect_timeout="5s"):
            return await _sell(rig, base, rig.size(_HOSTILE_RATE, 200), seconds, accounts, healthy)


async def _sell(rig: Rig, base: Base, rate: int, seconds: float, accounts: int, healthy: int) -> Run:
    """Sells for so many seconds, in turn of the accounts, and waits until those up to `healthy` have had everything."""
    await base.checkpoint()
    await rig.receivers.taken()
    since = datetime.now(UTC)
    question = {"dsn": base.dsn, "statement": db.query("bench_insert"), "rate": rate, "seconds": seconds, "accounts": accounts}
    sold = await asked("bisd.bench.shop", question)
    kept = [one for one in sold if one[0] <= healthy]
    await until_drained(base, since, len(kept), healthy)
    return _joined(kept, await rig.receivers.taken(), min(one[2] for one in sold))


def _joined(sold: Sequence[tuple[int, int, float, float]], taken: Taken, began: float) -> Run:
    stamps = [stamp for stamp in taken.stamps if not stamp.path.startswith("/hang/")]
    arrived: dict[int, float] = {}
    for stamp in stamps:
        arrived.setdefault(stamp.notification, stamp.at)
    require(arrived.keys() == {one[1] for one in sold}, "what came is not what was inserted")
    passages = [Passage(intended, committed, arrived[number]) for _, number, intended, committed in sold]
    return Run(began, passages, taken.peak, len(stamps) - len(arrived))


def _passing(passages: Sequence[Passage]) -> Figures:
    after_commit = spread(one.arrived - one.committed for one in passages)
    inserting = spread(one.committed - one.intended for one in passages)
    return spread(one.arrived - one.intended for one in passages) | {
        "commit_p50": after_commit["p50"],
        "commit_p99": after_commit["p99"],
        "insert_p50": inserting["p50"],
        "insert_p99": inserting["p99"],
    }


def _from(run: Run, seconds: float, first: float) -> Figures:
    """What was to be inserted from the second `first` on: what came of it, while there was selling, and when."""
    begin, end = run.began + first, run.began + seconds
    came = sum(begin <= passage.arrived < end for passage in run.passages)
    figures: Figures = {"sustained": came / (seconds - first), "in_flight": run.peak, "repeats": run.repeats}
    return figures | _passing(run.since(first))
