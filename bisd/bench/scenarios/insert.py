"""insert: what bisd costs the application, in its own transactions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from bisd import db
from bisd.bench import measures
from bisd.bench.cluster import Base, require
from bisd.bench.figures import Figures, Row, medians, ratio
from bisd.bench.processes import answered, helper, told
from bisd.bench.rig import Rig

# So that it is owed and looked at, and not sent: a POST in a quarter of an hour.
_SELDOM = 0.001
_WRITERS = (1, 8)
_CASES = {
    "bare": "bare table",
    "naive": "triggers with a naive NOTIFY, and a listener",
    "no_bell": "triggers without a bell",
    "bell": "triggers, and a daemon looking",
}


async def insert(rig: Rig) -> list[Row]:
    """How many notifications a second 1 and 8 writers insert, each a process that commits one at a time, for 5 seconds: into
    the table without triggers; with bisd's triggers, each row owed to a webhook, but with a naive bell, a NOTIFY of every
    transaction, and somebody listening; with no bell; and with everything, a daemon looking that may send none of it. Turn
    and turn about, there and back."""
    rounds: dict[tuple[int, str], list[Figures]] = {(writers, case): [] for writers in _WRITERS for case in _CASES}
    async with rig.base(1) as silent, rig.base(1) as naive, rig.base(1) as ringing:
        for base in (silent, naive, ringing):
            await base.subscribe(rig.receivers.at_once("http"), 1, 1, _SELDOM)
            await base.connection.execute(db.query("bench_tables"))
        await silent.connection.execute(db.query("bench_silence"))
        await naive.connection.execute(db.query("bench_naive"))
        bases = {"bare": silent, "naive": naive, "no_bell": silent, "bell": ringing}
        for turn in rig.turns("insert"):
            for writers in _WRITERS:
                for case in _CASES if turn % 2 else reversed(_CASES):
                    rig.tell(f"insert, {writers} writers, {_CASES[case]}, round {turn} of {rig.rounds}")
                    figures = await _insert(rig, bases[case], writers, case)
                    rounds[writers, case].append(figures)
                _compare({case: rounds[writers, case][-1] for case in _CASES})
    return [
        Row("insert", f"{writers} writer{'s' if writers > 1 else ''}, {_CASES[case]}", medians(figures))
        for (writers, case), figures in rounds.items()
    ]


def _compare(cases: dict[str, Figures]) -> None:
    for figures in cases.values():
        for other in ("bare", "naive", "no_bell"):
            figures[f"to_{other}"] = ratio(figures["inserts"], cases[other]["inserts"])


async def _insert(rig: Rig, base: Base, writers: int, case: str) -> Figures:
    await base.connection.execute(db.query("bench_empty"))
    await base.checkpoint()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(rig.daemons(base)) if case == "bell" else []
        if case == "naive":
            await stack.enter_async_context(_listening(base))
        statement = db.query("bench_insert_bare") if case == "bare" else db.query("bench_insert")
        question = json.dumps({"dsn": base.dsn, "statement": statement, "seconds": rig.seconds(5, 0.1)})
        processes = [await stack.enter_async_context(helper("bisd.bench.writer", question)) for _ in range(writers)]
        for process in processes:
            await answered(process)
        before = await measures.usage(base, running)
        told(processes)
        made = [json.loads(await answered(process)) for process in processes]
        after = await measures.usage(base, running)
        count = sum(number for number, _ in made)
        if case != "bare":
            await _check(base, count + writers)
    each = after.each(before, count)
    return {
        "inserts": sum(number / seconds for number, seconds in made),
        "postgres_cpu": each["postgres_cpu"],
        "wal": each["wal"],
        "cpu": each["cpu"] if running else None,
        "statements": each["statements"] if running else None,
    }


async def _check(base: Base, inserted: int) -> None:
    row = await base.connection.fetchrow(db.query("bench_events"))
    assert row is not None
    require(row["events"] == inserted, f"{inserted} were inserted, {row['events']} became events")
    require(row["owed"] >= inserted - 1, f"{inserted} were inserted, {row['owed']} are owed")


@asynccontextmanager
async def _listening(base: Base) -> AsyncIterator[None]:
    connection = await db.connect(base.dsn)
    try:
        await connection.add_listener("bisd", lambda *_: None)
        yield
    finally:
        connection.terminate()
