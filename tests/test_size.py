"""Size: a million owed, a million behind. What the daemon asks costs what it answers, not what the tables hold."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from aiohttp import web

from bisd import db
from tests.support.client import at_best, queued
from tests.support.daemon import Process
from tests.support.postgres import Server
from tests.support.receiver import Receiver

ROOT = Path(__file__).parent.parent

# 10,000 accounts with a webhook each; 600,000 events of eight days; a million owed, half of it to webhook 1, which is dead, as
# are 100 others; 400,000 attempts, half of them at webhook 1. Triggers would only make it slow.
_FILL = """
    set session_replication_role = replica;
    set synchronous_commit = off;
    insert into bisd.account (name, plan, api_key) select 'shop ' || n, 'medium', md5(n::text) from generate_series(1, 10000) n;
    insert into bisd.webhook (account_id, topic, url, enabled, live, failing_since, failures)
    select n, 'a', 'https://example.com/', true, true, case when n <= 100 then now() - interval '2 h' end,
           case when n <= 100 then 9 else 0 end
    from generate_series(1, 10000) n;
    create temporary table happened as
    select n as id, date_trunc('day', now()) + n / 75000 * interval '1 day' + interval '12 h' as at
    from generate_series(1, 599999) n;
    insert into bisd.event (id, account_id, topic, body, created_at) overriding system value
    select id, 1 + id % 10000, 'a', format('{"topic":"a","more":"%s"}', repeat('.', 350))::json, at from happened;
    insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, due_at)
    select 1, id, at, 70, now() - interval '1 h' + id * interval '1 ms' from happened where id between 80000 and 579999
    union all
    select 2 + id % 9999, id, at, 70, now() from happened where id > 99999;
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, due_at)
    select id, case id % 2 when 0 then 1 else 2 + id % 9999 end, at, at, 1, 'retry', 500, now()
    from happened
    where id <= 400000;
"""


@dataclass(frozen=True)
class Case:
    """How many pages a query may touch at this size; its arguments, as SQL that is asked first; what is done between the two,
    in the same transaction; and which small tables it may read from end to end."""

    pages: int
    arguments: tuple[str, ...] = ()
    between: str = ""
    scans: frozenset[str] = frozenset()


_PULSE, _WEBHOOK = frozenset({"pulse"}), frozenset({"webhook"})
_ALL_SHARDS = "select -1::bigint"
_SNAPSHOT = "select pg_current_snapshot()::text"
_LOOK = ("select 1000", "select 8 << 20", "select null::interval")


def _stamped(number: int) -> str:
    """So many of webhook 1's deliveries become due."""
    return f"update bisd.delivery set txid = pg_current_xact_id() where webhook_id = 1 and event_id < {80_000 + number}"


def _each(number: int, value: str) -> str:
    return f"select array_agg({value} order by n) from generate_series(1, {number}) n"


def _batch(value: str) -> str:
    return f"select array_agg({value} order by event_id) from bisd.delivery where webhook_id = 1 and event_id < 80500"


def _lanes(lanes: int, room: int, ordered: bool) -> tuple[str, ...]:
    return (
        _each(lanes, "n"), _each(lanes, "'1970-01-01'::timestamptz"), _each(lanes, "0"), _each(lanes, f"{room}"),
        "select 1 << 20", _each(lanes, f"{ordered}"),
    )  # fmt: skip


# Pages are those of indexes and tables together, each as often as it is touched: some five for a row that is found.
CASES: dict[str, list[Case]] = {
    # Of every start and every second.
    "pg_version": [Case(1)],
    "backend": [Case(1)],
    "set_session": [Case(1, ("select array['jit']", "select array['off']"))],
    "has_schema": [Case(20)],
    "schema_version": [Case(5)],
    "snapshot": [Case(1)],
    "restamp": [Case(20)],
    "leave_fleet": [Case(5)],
    "join_fleet": [Case(20, ("select 'bisd'", "select '8s'"))],
    "take_shards": [Case(5, (_each(64, "n - 1"),))],
    "release_shards": [Case(5, (_each(64, "n - 1"),))],
    "beat": [
        Case(20, between="update bisd.pulse set at = now()", scans=_PULSE),
        # After a silence: each webhook is looked at.
        Case(5000, between="update bisd.pulse set at = now() - interval '1 h'", scans=_PULSE | _WEBHOOK),
    ],
    # One entry of the index for each webhook that owes something, not for each delivery.
    "owing": [Case(10_000 * 6, (_ALL_SHARDS,))],
    "webhooks": [Case(10_000 * 7, (_each(10_000, "n"),)), Case(20, ("select array[5000]",))],
    "tests": [Case(20, (_ALL_SHARDS,))],
    "look": [
        Case(50, (_SNAPSHOT, _ALL_SHARDS, *_LOOK[:2], "select interval '10 s'")),  # and the fleet
        Case(20, (_SNAPSHOT, _ALL_SHARDS, *_LOOK)),
        Case(10 * 10, (_SNAPSHOT, _ALL_SHARDS, *_LOOK), _stamped(10)),
        Case(10 * 1000, (_SNAPSHOT, _ALL_SHARDS, *_LOOK), _stamped(5000)),
    ],
    "overflow": [Case(5000, (_SNAPSHOT, _ALL_SHARDS), _stamped(5000))],
    "refill": [
        Case(10 * 256, _lanes(1, 256, ordered=False)),
        Case(10 * 256, _lanes(1, 256, ordered=True)),
        Case(10 * 1000, _lanes(100, 10, ordered=False)),
    ],
    "settle": [
        Case(500 * 25, (
            _batch("webhook_id"), _batch("event_id"), _batch("event_created_at"), _batch("0"), _batch(due), _batch(verdict),
            _batch("1"), _batch("now()"), _batch("200::smallint"), _batch("null::text"), *[_batch("1::real")] * 5,
            _batch("null::bytea"), _batch("false"), _batch("null::text"), _batch("false"), _batch("due_at"),
        ))
        for due, verdict in (("null::timestamptz", "'delivered'::text"), ("now()", "'retry'::text"))
    ],
    "report": [
        Case(100, ("select 7", "select now()", "select 20", "select 50", "select now()", "select 1", "select now()",
                   "select null::text", "select 'status 500'")),
    ],
    # When it connects, where the DSN names several servers.
    "timeline": [Case(1)],
    # Every quarter of a minute, where there is an HTTP face: two looks at the first delivery and one at the webhook for each
    # that owes something, and so many deliveries of each state.
    "backlog": [Case(10_000 * 20 + 4 * 10_000, (_ALL_SHARDS, "select 10000"))],
    # Once an hour.
    "ring_fleet": [Case(1)],
    "patience": [Case(1, ("select '600s'",))],
    "make_partitions": [Case(500, ("select 7",))],
    "drop_partitions": [
        *[Case(100, (f"select '{table}'", "select interval '30 d'")) for table in ("event", "attempt")],
        # Of one day, of which nothing is owed; and of another one, of which all is.
        *[Case(10_000 * 10, ("select 'event'", f"select interval '-{hours} h'")) for hours in (30, 60)],
    ],
    "forget": [Case(1000, ("select interval '30 d'", "select interval '1 d'"), scans=_WEBHOOK)],
    "blueprint_settings": [Case(1)],
    "blueprint": [Case(20_000)],
    # Once a minute, where there is a master key.
    "unsealed": [Case(1000, ("select '0'", "select '~'", "select ''", "select 0", "select 500"))],
    "seal_keys": [Case(100, (_each(2, "n"), *[_each(2, "sha256('x')")] * 2, *[_each(2, "null::text")] * 2))],
}  # fmt: skip


_HOT = ("look", "overflow", "refill", "settle", "report", "webhooks", "tests")
_DAEMON = [
    "db", "migrate", "fleet", "intake", "housekeeping", "blueprint", "sealing", "backlog", "delivery/arrival",
    "delivery/writeback", "sessions", "bell",
]  # fmt: skip
_ASKED_BY_OTHERS = [
    "check/activity", "check/egress", "check/keys", "check/schema", "check/server", "check/session", "control",
    "demo", "insight", "deliveries", "admin/api/once",
]  # fmt: skip
# What these modules ask besides, when an operator calls them, not the daemon.
_NOT_THE_DAEMON = {
    "lock_migrations", "unlock_migrations", "migration_patience", "create_schema", "record_migration", "show_account",
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(server: Server) -> str:
    """A database of that size."""

    async def fill() -> str:
        dsn = await server.create()
        connection = await asyncpg.connect(dsn)
        await connection.execute(_FILL)
        await connection.close()
        return dsn

    return asyncio.run(fill())


@pytest.fixture(scope="module", params=["never analysed", "analysed"])
def sized(request: pytest.FixtureRequest, server: Server, filled: str) -> str:
    """The same, of which there are no statistics, or fresh ones."""

    async def analyse() -> str:
        dsn = await server.copy(filled)
        connection = await asyncpg.connect(dsn)
        await connection.execute("analyze")
        await connection.close()
        return dsn

    return filled if request.param == "never analysed" else asyncio.run(analyse())


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(name, case, id=f"{name}-{n}") for name in CASES for n, case in enumerate(CASES[name], 1)]
)
async def test_a_query_costs_what_it_answers(sized: str, name: str, case: Case) -> None:
    """With a generic plan, whatever the statistics, each query of the daemon's touches the pages of what it answers, and reads
    no large table from end to end."""
    pages, scanned = await _cost(sized, name, case)
    print(f"{pages} pages of {case.pages}")
    assert case.scans == scanned
    assert pages <= case.pages


async def test_a_plan_that_was_made_while_hardly_anything_was_owed(server: Server) -> None:
    """A session plans once, for the single row of a table that was empty when it was analysed, and keeps that when the table
    holds a million: what is asked at every look, refill and write-back touches what it answers all the same."""
    dsn = await server.create()
    connection, filling = await db.connect(dsn, db.DAEMON), await asyncpg.connect(dsn)
    try:
        await filling.execute("analyze")
        await filling.execute(
            "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes) values (1, 1, now(), 2)"
        )
        for statement in ["select", *filter(str.strip, _FILL.split(";"))]:
            await filling.execute(statement)
            for name in _HOT:  # in between, as a daemon does: a session that asks nothing for long plans anew
                asked = await connection.prepare(db.query(name))
                await connection.fetch(db.query(name), *[None] * len(asked.get_parameters()))
        costs = {f"{name}-{n}": (await _asked(connection, name, case))[0] / case.pages
                 for name in _HOT for n, case in enumerate(CASES[name], 1)}  # fmt: skip
    finally:
        connection.terminate()
        await filling.close()
    assert {} == {name: cost for name, cost in costs.items() if cost > 1}


def test_every_query_of_the_daemon_is_here() -> None:
    """Whatever the daemon's modules ask is in the list above, and nothing else."""
    modules = [ROOT / "bisd" / f"{module}.py" for module in _DAEMON]
    others = [ROOT / "bisd" / "cli", ROOT / "bisd" / "bench"]
    asking = {path for path in (ROOT / "bisd").rglob("*.py") if _queries(path) and not {*others} & {*path.parents}}
    assert {ROOT / "bisd" / f"{module}.py" for module in _ASKED_BY_OTHERS} == asking - set(modules)
    assert {name for path in modules for name in _queries(path)} - _NOT_THE_DAEMON == set(CASES)


def _queries(path: Path) -> set[str]:
    return set(re.findall(r'query\("(\w+)"\)', path.read_text(encoding="utf-8")))


async def test_a_start_with_a_million_owed(
    server: Server, filled: str, receiver: Receiver, ca_file: Path, tmp_path: Path
) -> None:
    """The first delivery arrives within two seconds of the start, and what the daemon holds of a million that it owes to 10,000
    slow webhooks stays below 200 MB."""
    dsn = await server.copy(filled)
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "set session_replication_role = replica; "
        f"update bisd.webhook set url = '{receiver.url}', failing_since = null, failures = 0"
    )
    await connection.close()

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.Response()

    receiver.answer = answer

    async def start() -> tuple[int, list[str]]:
        receiver.requests.clear()
        daemon = Process(tmp_path, dsn, ca_file)
        began = time.monotonic()
        await daemon.start()
        process, memory = psutil.Process(daemon.pid), 0
        try:
            first = await receiver.received(1)
            took = first[0].at - began - queued(daemon.pid)
            for number in range(100, 4000, 100):
                await receiver.received(number)
                memory = max(memory, process.memory_info().rss)
        finally:
            assert await daemon.stop() == 0
        return memory, [] if took < 2.0 else [f"seconds: {took}"]

    memory, exceeded = await at_best(start)
    assert ([], True) == (exceeded, memory < 200 << 20)


async def _cost(dsn: str, name: str, case: Case) -> tuple[int, set[str]]:
    """Pages touched by a query as the daemon asks it, in functions too; and which tables were read from end to end."""
    connection = await db.connect(dsn, db.DAEMON)
    try:
        return await _asked(connection, name, case)
    finally:
        connection.terminate()


async def _asked(connection: db.Connection, name: str, case: Case) -> tuple[int, set[str]]:
    """It is asked twice, and this is the second time: the first one plans, if that has not been done before."""
    plans: list[dict[str, Any]] = []

    def note(_: object, message: Any) -> None:
        plans.append(json.loads(message.message.partition("plan:")[2]))

    async with connection.transaction():
        arguments = [await connection.fetchval(argument) for argument in case.arguments]
        await connection.execute(case.between or "select")
        await connection.execute(_EXPLAINED)
        connection.add_log_listener(note)
        for _ in range(2):
            savepoint = connection.transaction()
            await savepoint.start()
            plans.clear()
            await connection.fetch(db.query(name), *arguments)
            await savepoint.rollback()
        connection.remove_log_listener(note)
        await connection.execute("set client_min_messages = warning")
    whole = plans[-1]["Plan"]
    nodes = [node for plan in plans for node in _nodes(plan["Plan"])]
    scanned = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan" and node["Actual Loops"]}
    return whole["Shared Hit Blocks"] + whole["Shared Read Blocks"], scanned


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _nodes(part)


_EXPLAINED = """
    load 'auto_explain';
    set auto_explain.log_min_duration = 0;
    set auto_explain.log_analyze = on;
    set auto_explain.log_buffers = on;
    set auto_explain.log_timing = off;
    set auto_explain.log_nested_statements = on;
    set auto_explain.log_format = json;
    set client_min_messages = log;
"""
