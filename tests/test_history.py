"""A long history: whatever is asked about it costs what it answers, and misses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bisd import db, insight
from bisd.admin.portal import Grant, Signer
from bisd.listing import Cursor
from tests.support.api import OPERATOR
from tests.support.cli import Run
from tests.support.client import at_best
from tests.support.face import Face, facing
from tests.support.pages import Visitor
from tests.support.postgres import Server

pytestmark = pytest.mark.alone

# Of 20 days: 4,000 webhooks, the last 400 of one account, two of each other one; a million attempts, a third of them at
# webhook 1, and 19,000 that were the second; 600,000 owed, half of it to webhook 3, which has failed once, and half to webhook
# 5, which was not tried.
_FILL = """
    set session_replication_role = replica;
    set synchronous_commit = off;
    do $$ declare parent text; day date; part regclass; begin
        for parent, day in
            select p, (now() at time zone 'UTC')::date - n from unnest('{event,attempt}'::text[]) p, generate_series(1, 20) n
        loop
            execute format('create table bisd.%I partition of bisd.%I for values from (%L) to (%L)',
                           bisd.partition_name(parent, day), parent, bisd.midnight(day), bisd.midnight(day + 1));
        end loop;
        for part in select c.oid from pg_class c where c.relnamespace = 'bisd'::regnamespace and c.relkind = 'r' loop
            execute format('alter table %s set (autovacuum_enabled = off)', part);
        end loop;
    end $$;
    insert into bisd.account (name, plan, api_key) select 'shop ' || n, 'medium', md5(n::text) from generate_series(1, 2000) n;
    insert into bisd.webhook (account_id, topic, url, enabled, live)
    select case when n > 3600 then 1900 else (n + 1) / 2 end, 'a', 'https://example.com/', true, true
    from generate_series(1, 4000) n;
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, total_ms, due_at)
    select n, w, x.at + p.after, x.at, p.number, p.v, case p.v when 'delivered' then 200 else 500 end, p.took, p.due_at
    from (select n, case n % 3 when 0 then 1 else 1 + n % 4000 end as w, now() - (1000001 - n) * interval '1.6 s' as at,
                 (case when n % 1000 = 0 then 'failed' when n % 50 = 0 then 'retry' else 'delivered' end)::bisd.verdict as v
          from generate_series(1, 1000000) n) x
    cross join lateral (
        select 1 as number, interval '0 s' as after, x.v, 5 + n % 400 as took, case x.v when 'retry' then x.at end as due_at
        union all
        select 2, interval '5 s', 'delivered', 10, null where x.v = 'retry' and n <= 950000
    ) p;
    insert into bisd.event (id, account_id, topic, body, created_at) overriding system value
    select n, w.account_id, 'a', '{}', now() - (1000001 - n) * interval '1.6 s'
    from generate_series(900001, 1000000) n join bisd.webhook w on w.id = case n % 3 when 0 then 1 else 1 + n % 4000 end;
    insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, due_at, attempts)
    select webhook_id, event_id, event_created_at, 2, now() + interval '1 d', 1
    from bisd.attempt where verdict = 'retry' and event_id > 950000
    union all
    select 3, 2000000 + n, now(), 2, now() + interval '1 d' + n * interval '1 s', 1 from generate_series(1, 300000) n
    union all
    select 5, 2000000 + n, now(), 2, now() + interval '1 d', 0 from generate_series(1, 300000) n;
"""
_QUICK = 0.2

PAGES = [
    *[f"/deliveries?limit={limit}{narrowed}{wanted}"
      for limit in (50, 200)
      for narrowed in ("", "&account_id=1", "&webhook_id=1", "&account_id=2", "&account_id=3", "&account_id=1500",
                       "&account_id=1900")
      for wanted in ("", "&state=delivered", "&state=failed", "&state=expired", "&state=pending", "&state=retrying",
                     "&topic=none", "&until={long_ago}", "&since={long_ago}&state=refused")],
    "/deliveries?event_id=999999", "/deliveries/999999", "/deliveries/970050", "/events/999999", "/accounts", "/accounts/1",
    "/accounts?after=1900", "/webhooks", "/webhooks?account_id=1", "/webhooks?after=3900", "/tokens",
    *[f"/webhooks/{webhook}{what}" for webhook in (1, 3, 5, 7) for what in ("", "/health", "/replay")],
    "/status", "/history", "/history?since={long_ago}&step=1d", "/history?since={long_ago}&step=3h",
    *[f"/history?account_id={account}{since}" for account in (1, 1900) for since in ("", "&since={long_ago}&step=1d")],
]  # fmt: skip


@pytest.fixture(scope="module")
def filled(server: Server) -> str:
    async def fill() -> str:
        dsn = await server.create()
        connection = await asyncpg.connect(dsn)
        await connection.execute(_FILL)
        await connection.close()
        return dsn

    return asyncio.run(fill())


@pytest.fixture(params=["never analysed", "analysed"])
async def face(request: pytest.FixtureRequest, filled: str, tmp_path: Path) -> AsyncIterator[Face]:
    """Of a daemon on that database, of which there are no statistics, or fresh ones. Nothing is due today."""
    if request.param == "analysed":
        connection = await asyncpg.connect(filled)
        await connection.execute("analyze")
        await connection.close()
    (tmp_path / "token").write_text(OPERATOR)
    async with facing(filled, token_file=tmp_path / "token") as (_, face):
        yield face


async def test_every_page_is_quick(face: Face) -> None:
    """Each listing and each thing that the API shows takes less than 200 ms, and so does the following page."""
    long_ago = f"{datetime.now(UTC) - timedelta(days=12):%Y-%m-%dT%H:%M:%SZ}"
    slow = {}
    for path in PAGES:
        path = path.format(long_ago=long_ago)
        following = (await get(face, path))[1].get("next")
        for asked in [path] + ([f"{path}&after={following}"] if path.startswith("/deliveries?") and following else []):

            async def ask(asked: str = asked) -> tuple[float, list[str]]:
                took, _ = await get(face, asked)
                return took, [] if took < _QUICK else [f"{took:.3f} s"]

            took, exceeded = await at_best(ask)
            if exceeded:
                slow[asked] = took
    assert {} == slow


async def get(face: Face, path: str) -> tuple[float, dict[str, Any]]:
    began = time.monotonic()
    told = await face.get(f"/api/v1{path}", f"Authorization: Bearer {OPERATOR}")
    assert 200 == told.status, (path, told.body)
    return time.monotonic() - began, told.json


async def test_what_is_owed_is_counted_up_to_ten_thousand(face: Face) -> None:
    """Of three hundred thousand, so many; and since when the first of them waits."""
    _, told = await get(face, "/webhooks/3/health")
    assert (insight.COUNTED_BACKLOG, True) == (told["backlog"], told["oldest_waiting"] is not None)


async def test_a_change_of_any_webhook_that_is_shown_is_noticed(filled: str) -> None:
    """Of four hundred the first are; that one of them was tried, or is gone, makes another stamp."""
    connection = await asyncpg.connect(filled)
    try:
        await connection.execute("begin")
        first = (await insight.glance(connection, 1900))[0]["id"]
        stamps = [await insight.stamp(connection, 1900)]
        await connection.execute(
            "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict) "
            "values (1, $1, now(), now(), 'delivered')",
            first,
        )
        stamps.append(await insight.stamp(connection, 1900))
        await connection.execute("select bisd.remove_webhook($1)", first + 199)
        stamps.append(await insight.stamp(connection, 1900))
    finally:
        connection.terminate()
    assert 3 == len(set(stamps))


SHOWN = [
    "/", "/?span=day", "/?span=week", "/accounts", "/accounts?after=1900",
    "/accounts/1900/webhooks", "/accounts/1900/deliveries",
    *[f"/accounts/{account}/{page}"
      for account in (1, 2, 3, 1500)
      for page in ("webhooks", "deliveries", "deliveries?state=failed", "deliveries?state=expired", "deliveries?state=pending",
                   "deliveries?topic=none", "deliveries?until={long_ago}", "api")],
    "/accounts/1/webhooks/1", "/accounts/2/webhooks/3", "/accounts/3/webhooks/5", "/accounts/1/webhooks/1/remove",
    "/accounts/1/deliveries?event=999999", "/accounts/1/deliveries/999999/1",
]  # fmt: skip


async def test_every_page_that_people_see_is_quick(face: Face) -> None:
    """So does each of theirs, the operator's and an account's."""
    long_ago = f"{datetime.now(UTC) - timedelta(days=12):%Y-%m-%dT%H:%M}"
    visitor = Visitor(face, Signer(OPERATOR.encode(), "session").sign(Grant(None, 9_999_999_999)))
    slow = {}
    for path in SHOWN:

        async def ask(asked: str = path.format(long_ago=long_ago)) -> tuple[float, list[str]]:
            began = time.monotonic()
            assert 200 == (await visitor.get(asked)).status, asked
            took = time.monotonic() - began
            return took, [] if took < _QUICK else [f"{took:.3f} s"]

        took, exceeded = await at_best(ask)
        if exceeded:
            slow[path] = took
    assert {} == slow


def test_the_command_line_lists_as_quickly(filled: str, tmp_path: Path) -> None:
    """`bisd delivery list`, whatever it is asked for, in two seconds, its own start among them."""
    (tmp_path / "shop.toml").write_text(f'[database]\ndsn = "{filled}"\n')
    bisd = Run(tmp_path / "shop.toml")
    for arguments in ([], ["--webhook", "1"], ["--state", "failed"], ["--webhook", "5", "--state", "pending"]):
        began = time.monotonic()
        assert 0 == bisd("delivery", "list", *arguments).returncode
        assert time.monotonic() - began < 2


# The twelve hours since $1: six, each busier than the one before; one in which there was nothing; and five, in each of which
# more failed than in the one before.
_COURSE = """
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, total_ms)
    select n, 1, at, at, 1, case when n % 20 < hour - 6 then 'failed' else 'delivered' end::bisd.verdict, 200,
           hour * 10 + n % 10
    from (select hour, case when hour < 6 then 1500 * (1 + hour) when hour > 6 then 4000 else 0 end as number
          from generate_series(0, 11) hour) x
    cross join generate_series(1, number) n
    cross join lateral (select $1::timestamptz + (hour + (n - 0.5) / number) * interval '1 h' as at) y
    order by at
"""


async def test_the_course_of_a_long_history_is_told_by_a_part_of_it(connect: Callable[[], Awaitable[db.Connection]]) -> None:
    """A quarter of the pages read, an hour is told to a twentieth, and what failed to a quarter; and when there was nothing."""
    connection = await connect()
    since = datetime.now(UTC) - timedelta(hours=12)
    await connection.execute(_COURSE, since)
    whole, part = [await connection.fetch(db.query("history"), since, timedelta(hours=1), pages) for pages in (100_000, 150)]
    assert ({True}, {False}) == ({row["exact"] for row in whole}, {row["exact"] for row in part})
    assert [1500, 3000, 4500, 6000, 7500, 9000, 3800, 3600, 3400, 3200, 3000] == [row["delivered"] for row in whole]
    assert [row["at"] for row in whole] == [row["at"] for row in part]
    for exact, told in zip(whole, part, strict=True):
        assert exact["delivered"] == pytest.approx(told["delivered"], rel=0.05)
        assert exact["failed"] == pytest.approx(told["failed"], rel=0.25)
        assert exact["took_ms"] == pytest.approx(told["took_ms"], abs=1)


# Three days before $1: 1,500 slow ones, 60,000 quick ones, 1,500 slow ones.
_UNEVEN = """
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, total_ms)
    select n, 1, at, at, 1, 'delivered', 200, case day when 2 then 10 else 500 end
    from generate_series(1, 3) day
    cross join lateral (select case day when 2 then 60000 else 1500 end as number) x
    cross join generate_series(1, number) n
    cross join lateral (select $1::timestamptz - day * interval '1 d' + (n - 0.5) / number * interval '1 d' as at) y
    order by at
"""


async def test_a_busy_day_weighs_more_in_how_long_it_took(connect: Callable[[], Awaitable[db.Connection]]) -> None:
    """In a step that has several days, of which as many pages of each are read."""
    connection = await connect()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await connection.execute(_UNEVEN, midnight)
    await connection.fetchval("select bisd.make_partitions(1)")
    (told,) = await connection.fetch(db.query("history"), midnight - timedelta(days=3), timedelta(days=5), 60)
    assert not told["exact"]
    assert 63_000 == pytest.approx(told["delivered"], rel=0.05)
    assert [10, 10, 500] == told["took_ms"]


# From $1 on, for an hour: one a minute that failed. And then, within a minute, what was owed is taken.
_QUIET = """
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, total_ms)
    select n, 1, $1::timestamptz + n * interval '1 min', $1, 1, 'failed'::bisd.verdict, 500, 10
    from generate_series(0, 59) n
    union all
    select n, 1, $1::timestamptz + interval '1 h' + n * interval '2 ms', $1, 1, 'delivered', 200, 10
    from generate_series(0, 29999) n
"""


async def test_what_failed_before_a_rush_is_told(connect: Callable[[], Awaitable[db.Connection]]) -> None:
    """Of steps so quiet that all of them share a page with what came next, none is passed over."""
    connection = await connect()
    since = datetime.now(UTC) - timedelta(hours=16)
    await connection.execute(_QUIET, since)
    told = await insight.history(connection, since, timedelta(minutes=10))
    assert {False} == {row["exact"] for row in told}
    assert [10] * 6 == [row["failed"] for row in told[:6]]
    assert 30_000 == pytest.approx(sum(row["delivered"] for row in told), rel=0.05)


# Every way that a delivery can have gone, many times over, at three webhooks of two accounts.
_MIXED = """
    select bisd.create_account('a', 'medium'), bisd.create_account('b', 'medium');
    select bisd.create_webhook(1, 'a', 'https://example.com/'), bisd.create_webhook(1, 'a', 'https://example.com/'),
           bisd.create_webhook(2, 'b', 'https://example.com/');
    select bisd.enable_webhook(n) from generate_series(1, 3) n;
    select bisd.emit(1, 'a', '{}') from generate_series(1, 60);
    select bisd.emit(2, 'b', '{}') from generate_series(1, 60);
    create temporary table tried as
    select d.event_id, d.webhook_id, d.event_created_at, d.event_id % 10 as kind from bisd.delivery d where d.event_id % 10 < 8;
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, due_at)
    select event_id, webhook_id, event_created_at + event_id % 7 * interval '1 s', event_created_at, 1, 'retry', 500, now()
    from tried where kind in (0, 1, 2, 6);
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status)
    select event_id, webhook_id, event_created_at + interval '9 s', event_created_at,
           case when kind in (5, 7) then null when kind in (1, 2) then 2 else 1 end,
           (array['delivered', 'failed', 'refused', 'delivered', 'expired', 'failed', 'cancelled'])[kind]::bisd.verdict,
           case when kind in (5, 7) then null else 200 end
    from tried where kind > 0;
    delete from bisd.delivery d using tried t where t.kind > 0 and d.event_id = t.event_id and d.webhook_id = t.webhook_id;
    update bisd.delivery d set attempts = 1 where d.event_id % 10 = 0;
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict, due_at)
    select event_id, webhook_id, event_created_at + interval '12 s', event_created_at, 'postponed', now()
    from bisd.delivery where event_id % 20 = 8;
    select bisd.retry(event_id, webhook_id) from tried where kind = 4 and event_id % 20 = 4;
    select bisd.send_test(2);
    select bisd.disable_webhook(2);
"""
NARROWED = [
    {}, {"account_id": 1}, {"account_id": 2}, {"webhook_id": 1}, {"account_id": 1, "webhook_id": 2},
    {"account_id": 2, "webhook_id": 2}, {"topic": "b"}, {"account_id": 1, "topic": "b"},
]  # fmt: skip


@pytest.mark.parametrize("most", [1, 7, 200])
async def test_nothing_is_missed_and_nothing_comes_twice(
    dsn: str, connect: Callable[[], Awaitable[db.Connection]], most: int
) -> None:
    """Page by page, whatever is asked for, a listing has what bisd.delivery_status has, as it has it, each once; and who may
    read that view may list."""
    await (await connect()).execute(_MIXED)
    asking = await db.connect(f"{dsn}&role=bisd_reader", db.ASKED)
    status = [dict(row) for row in await asking.fetch("select * from bisd.delivery_status")]
    assert {"pending", "retrying", "held", "delivered", "failed", "expired", "cancelled", "refused"} == {
        row["state"] for row in status
    }
    for narrowed in NARROWED:
        for state in (None, *sorted({row["state"] for row in status})):
            wanted = narrowed | ({} if state is None else {"state": state})
            expected = [row for row in status if all(row[name] == value for name, value in wanted.items())]
            assert _in_order(expected) == _in_order(await _pages(asking, most, wanted)), wanted
    asking.terminate()


async def _pages(connection: db.Connection, most: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    page = await insight.deliveries(connection, most=most, **wanted)
    rows += page.rows
    while page.next is not None:
        page = await insight.deliveries(connection, most=most, after=Cursor.parse(str(page.next)), **wanted)
        assert len(page.rows) <= most
        rows += page.rows
    return rows


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["event_id"], row["webhook_id"]))


async def test_what_was_tried_last_comes_first(dsn: str, connect: Callable[[], Awaitable[db.Connection]]) -> None:
    """An event that is sent again stands at the top of the listing, whenever it happened."""
    connection = await connect()
    await connection.execute(_MIXED)
    await connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status) "
        "select event_id, webhook_id, now() + interval '1 min', event_created_at, 3, 'delivered', 200 "
        "from bisd.attempt where event_id = 3 and webhook_id = 1 limit 1"
    )
    for wanted in ({}, {"account_id": 1}, {"webhook_id": 1}):
        page = await insight.deliveries(connection, most=5, **wanted)
        assert (3, 1) == (page.rows[0]["event_id"], page.rows[0]["webhook_id"]), wanted


# Forty that were delivered; and then three that were tried fifteen times each, and are still owed.
_TRIED_OFTEN = """
    select bisd.create_account('a', 'medium');
    select bisd.create_webhook(1, 'a', 'https://example.com/');
    select bisd.enable_webhook(1);
    select bisd.emit(1, 'a', '{}') from generate_series(1, 43);
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, due_at)
    select d.event_id, 1, d.event_created_at, d.event_created_at, 1, 'delivered'::bisd.verdict, 200, null
    from bisd.delivery d where d.event_id <= 40
    union all
    select d.event_id, 1, d.event_created_at + n * interval '1 s', d.event_created_at, n, 'retry', 500, now()
    from bisd.delivery d, generate_series(1, 15) n where d.event_id > 40;
    delete from bisd.delivery where event_id <= 40;
    update bisd.delivery set attempts = 15;
"""


@pytest.mark.parametrize("scope", [{"webhook_id": 1}, {"account_id": 1}, {}])
async def test_what_is_tried_often_fills_no_page(
    scope: dict[str, Any], connect: Callable[[], Awaitable[db.Connection]]
) -> None:
    """A page has as many deliveries as were asked for, few as those may be, behind others with many attempts."""
    connection = await connect()
    await connection.execute(_TRIED_OFTEN)
    recent = await insight.deliveries(connection, most=10, **scope)
    assert [43, 42, 41, *range(40, 33, -1)] == [row["event_id"] for row in recent.rows]
    delivered = await insight.deliveries(connection, most=1, state="delivered", **scope)
    assert [40] == [row["event_id"] for row in delivered.rows]


@pytest.mark.parametrize("step", [timedelta(minutes=1), timedelta(seconds=18)])
async def test_the_course_of_things_adds_up(step: timedelta, dsn: str, connect: Callable[[], Awaitable[db.Connection]]) -> None:
    """Of all, and of an account, what came of every attempt is counted once, in few steps or many; tests are not."""
    connection = await connect()
    await connection.execute(_MIXED)
    since = datetime.now(UTC) - timedelta(hours=1)
    for account_id, narrowed in ((None, "true"), (1, "w.account_id = 1")):
        steps = await insight.history(connection, since, step, account_id)
        names = ("delivered", "retried", "failed", "dropped")
        counted = {name: sum(int(str(step[name])) for step in steps) for name in names}
        rows = await connection.fetch(
            "select case when verdict in ('expired', 'refused', 'cancelled') then 'dropped' "
            "when verdict = 'retry' then 'retried' else verdict::text end as name, count(*) "
            "from bisd.attempt a join bisd.webhook w on w.id = a.webhook_id "
            f"where {narrowed} and not a.test and verdict <> 'postponed' group by 1"
        )
        assert {row["name"]: row["count"] for row in rows} == counted
        assert {True} == {step["exact"] for step in steps}


@pytest.mark.parametrize("asked", ["deliveries", "history"])
async def test_a_partition_may_be_dropped_meanwhile(
    asked: str, dsn: str, connect: Callable[[], Awaitable[db.Connection]]
) -> None:
    """Whoever has begun to ask, and waits for it to be gone, is told what is left."""
    dropping, asking = await connect(), await connect()
    await dropping.execute(_MIXED)
    partition = await dropping.fetchval(
        "select min(c.relname) from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "where i.inhparent = 'bisd.attempt'::regclass and pg_relation_size(c.oid) > 0"
    )
    transaction = dropping.transaction()
    await transaction.start()
    await dropping.execute(f"drop table bisd.{partition}")

    async def ask() -> list[dict[str, Any]]:
        if asked == "deliveries":
            return (await insight.deliveries(asking, state="failed")).rows
        return await insight.history(asking, datetime.now(UTC) - timedelta(days=1), timedelta(days=2))

    answered = asyncio.create_task(ask())
    waiting = "select exists (select from pg_stat_activity where $1::integer = any(pg_blocking_pids(pid)))"
    while not await dropping.fetchval(waiting, dropping.get_server_pid()):
        await asyncio.sleep(0)
    await transaction.commit()
    assert [] == await answered
