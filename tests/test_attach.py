"""Events out of a table that the application has already: bisd.attach and bisd.detach."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bisd import db
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop

Connect = Callable[[], Awaitable[db.Connection]]
Run = Callable[..., subprocess.CompletedProcess[str]]

ORDERS = """
    create schema shop;
    create table shop.orders (
        id bigint primary key, shop_id integer, status text not null default 'new', total numeric, title text, document json
    );
    insert into shop.orders (id, shop_id, total, title) select i, 1, i, 'Tea ' || i from generate_series(1, 1000) i;
"""
PAID = "new.status = 'paid' and old.status <> 'paid'"


@pytest.fixture
async def orders(shop: Shop) -> AsyncIterator[db.Connection]:
    """The application's connection, and its table with 1,000 rows."""
    await shop.connection.execute(ORDERS)
    yield shop.connection


async def attach(connection: db.Connection, table: str = "shop.orders", on: str = "update", **options: Any) -> None:
    given = {"topic": "order/paid", "on_event": on, "account": "shop_id"} | options
    names = ", ".join(f"{name} => ${number}" for number, name in enumerate(given, 2))
    await connection.execute(f"select bisd.attach($1::text::regclass, {names})", table, *given.values())


async def bodies(connection: db.Connection, topic: str = "order/paid") -> list[str]:
    rows = await connection.fetch("select body::text from bisd.event where topic = $1 order by id", topic)
    return [row[0] for row in rows]


async def faults(connection: db.Connection) -> list[tuple[str, int]]:
    rows = await connection.fetch("select sqlstate, events from bisd.attachment_fault order by at, sqlstate")
    return [(row[0], row[1]) for row in rows]


async def test_a_thousand_rows_in_one_update(orders: db.Connection) -> None:
    """1,000 rows in one statement give exactly the events whose condition holds: each once, with its account, its body the
    chosen columns in the chosen order, compact."""
    await orders.execute("update shop.orders set status = 'paid' where id <= 10")
    await attach(orders, columns=["title", "id", "total"], condition=f"{PAID} and new.id % 2 = 0")
    await orders.execute("update shop.orders set status = 'paid', shop_id = id + 5")
    expected = [f'{{"title":"Tea {i}","id":{i},"total":{i}}}' for i in range(12, 1001, 2)]
    assert expected == sorted(await bodies(orders), key=lambda body: int(json.loads(body)["id"]))
    wrong = await orders.fetchval("select count(*) from bisd.event where account_id <> (body->>'id')::bigint + 5")
    assert (wrong, await faults(orders)) == (0, [])


async def test_an_insert_of_every_column(orders: db.Connection) -> None:
    """Without columns, the body has all that the table had when it was attached, in their order; a column that is added later
    is not told to anybody, and a name is given as an SQL name would be."""
    await attach(orders, on="insert", topic="order/new")
    await orders.execute("alter table shop.orders add secret text default 'hunter2'")
    await orders.execute(
        "insert into shop.orders (id, shop_id, title, document) values (1001, 1, 'Thé \"noir\"', '{ \"a\": 1 }')"
    )
    (body,) = await bodies(orders, "order/new")
    expected = r'{"id":1001,"shop_id":1,"status":"new","total":null,"title":"Thé \"noir\"","document":{ "a": 1 }}'
    assert body == expected


async def test_it_reaches_the_receiver(shop: Shop, orders: db.Connection, receiver: Receiver, dsn: str, ca_file: Path) -> None:
    """From an update of the application's own table to the merchant's endpoint."""
    await attach(orders, columns=["id", "status"], condition=PAID)
    await shop.subscribe("order/paid", receiver.url)
    async with running(configure(ca_file), dsn):
        await orders.execute("update shop.orders set status = 'paid' where id = 7")
        (got,) = await receiver.received(1)
    assert (got.body, got.headers["X-BIS-Topic"]) == (b'{"id":7,"status":"paid"}', "order/paid")


async def test_expressions(orders: db.Connection) -> None:
    """Account, condition and body may be expressions: with queries of their own, functions of the application's that take the
    row, and comments."""
    await orders.execute(
        "create table shop.tenant (name text primary key, account bigint); insert into shop.tenant values ('x', 42);"
        "create function shop.render(o shop.orders) returns json language sql as $$ select json_build_array(o.id, o.title) $$"
    )
    await attach(
        orders,
        account="(select t.account from shop.tenant t where t.name = 'x') + new.id - old.id -- whose it is",
        body="shop.render(new)",
        condition="new.status is distinct from old.status",
    )
    await orders.execute("update shop.orders set status = case when id = 3 then 'paid' else status end")
    rows = await orders.fetch("select account_id, body::text from bisd.event")
    assert [(42, '[3, "Tea 3"]')] == [tuple(row) for row in rows]


async def test_the_rows_of_a_fault_are_told_apart(orders: db.Connection) -> None:
    """Of 1,000 rows, those without an account, without a body, with one that is too large, or with a value that the
    expression stumbles on lose their own events and no other; each is counted by its SQLSTATE, and the statement goes on."""
    told: list[tuple[str, str]] = []
    orders.add_log_listener(lambda _, message: told.append((message.sqlstate, message.message)))
    await orders.execute(
        "update shop.orders set shop_id = null where id = 5;"
        "update shop.orders set document = to_json(repeat('x', 1048576)) where id = 6;"
        "update shop.orders set total = 0 where id in (7, 8)"
    )
    await attach(
        orders,
        body="case when new.id <> 9 then coalesce(new.document, to_json(new.id)) end",
        condition="new.status <> old.status and 1 / new.total > 0",
    )
    assert await orders.execute("update shop.orders set status = 'paid'") == "UPDATE 1000"
    assert [str(i) for i in range(1, 1001) if i not in range(5, 10)] == sorted(await bodies(orders), key=int)
    assert await faults(orders) == [("22012", 2), ("23502", 2), ("BISD2", 1)]
    assert [message for _, message in told] == [
        "bisd: attachment 1 has not made 2 event(s): SQLSTATE 22012",
        "bisd: attachment 1 has not made 2 event(s): SQLSTATE 23502",
        "bisd: attachment 1 has not made 1 event(s): SQLSTATE BISD2",
    ]


async def test_the_largest_body_is_made(orders: db.Connection) -> None:
    """A body of exactly the size that `emit` takes is an event here, too."""
    await attach(orders, on="insert", body="new.document")
    await orders.execute(
        "insert into shop.orders (id, shop_id, document) select 1001, 1, to_json(repeat('x', bisd.max_body_bytes() - 2))"
    )
    assert [1048576] == [len(body) for body in await bodies(orders)]
    assert await faults(orders) == []


@pytest.mark.parametrize(
    "damage",
    [
        "alter table bisd.event rename to elsewhere",
        "alter table bisd.webhook rename to elsewhere",
        "alter table shop.orders rename column shop_id to shop",
        "drop function bisd.record_faults(bigint, text[]); alter table bisd.event rename to elsewhere",
        "drop function bisd.insert_events(text, bigint[], json[]); alter table bisd.event rename to elsewhere",
        "alter table bisd.attachment_fault rename to nowhere; alter table bisd.event rename to elsewhere",
        "drop schema bisd cascade",
    ],
)
async def test_whatever_is_wrong_with_bisd_the_application_goes_on(damage: str, orders: db.Connection) -> None:
    """With bisd's tables or functions gone, or the table changed under it, the application's statement does what it did."""
    await attach(orders, condition=PAID)
    await orders.execute(damage)
    async with orders.transaction():
        assert await orders.execute("update shop.orders set status = 'paid'") == "UPDATE 1000"
    assert await orders.fetchval("select count(*) from shop.orders where status = 'paid'") == 1000


async def test_faults_that_cannot_be_counted(orders: db.Connection) -> None:
    """Where not even the count of faults works, the rows without a fault still give their events."""
    await attach(orders, columns=["id"], condition=PAID)
    await orders.execute("alter table bisd.attachment_fault rename to nowhere")
    await orders.execute("update shop.orders set status = 'paid', shop_id = nullif(id, 2) where id <= 3")
    assert await bodies(orders) == ['{"id":1}', '{"id":3}']


async def test_strict_aborts(orders: db.Connection) -> None:
    """Asked to be strict, a fault is the statement's: it changes nothing, no event is made, and nothing is counted."""
    await attach(orders, condition=PAID, strict=True)
    await orders.execute("update shop.orders set shop_id = null where id = 500")
    with pytest.raises(asyncpg.NotNullViolationError):
        await orders.execute("update shop.orders set status = 'paid'")
    assert (await bodies(orders), await faults(orders)) == ([], [])
    await orders.execute("update shop.orders set status = 'paid' where id <> 500")
    assert len(await bodies(orders)) == 999


async def test_a_cancelled_statement_is_cancelled(orders: db.Connection) -> None:
    """The application's own time limit is not swallowed."""
    await attach(orders, condition="pg_sleep(60) is not null")
    await orders.execute("set statement_timeout = '100ms'")
    async with asyncio.timeout(30):
        with pytest.raises(asyncpg.QueryCanceledError):
            await orders.execute("update shop.orders set status = 'paid' where id = 1")


async def test_a_serialization_failure_is_passed_on(orders: db.Connection) -> None:
    """What tells a transaction to be tried again is the application's to hear; swallowed, it would cost the event."""
    await orders.execute(
        "create function shop.conflict() returns boolean language plpgsql as $$ begin raise serialization_failure; end $$"
    )
    await attach(orders, condition="shop.conflict()")
    with pytest.raises(asyncpg.SerializationError):
        await orders.execute("update shop.orders set status = 'paid' where id = 1")


async def test_a_changed_key_is_a_fault(orders: db.Connection) -> None:
    """A row whose primary key changes cannot be compared with what it was, which is counted; without a look at `old` it is
    an event like any other."""
    await attach(orders, columns=["id"], condition=PAID)
    await attach(orders, topic="order/changed", columns=["id"])
    await orders.execute("update shop.orders set status = 'paid', id = case id when 1 then 2001 else id end where id <= 3")
    assert sorted(await bodies(orders)) == ['{"id":2}', '{"id":3}']
    assert await faults(orders) == [("BISD1", 1)]
    assert sorted(await bodies(orders, "order/changed")) == ['{"id":2001}', '{"id":2}', '{"id":3}']


async def test_awkward_names_and_keys(orders: db.Connection) -> None:
    """Names that need quotes, columns called as our own are, a key of several columns, generated and dropped ones."""
    await orders.execute(
        """
        create schema "My Shop";
        create table "My Shop"."Ord""er's %s" (
            "Nr." integer, "new" text, gone integer, "old" text, body text, "100%" integer, one integer, fact integer,
            pair text, doubled integer generated always as ("100%" * 2) stored, "a$attached$b" integer default 1,
            primary key ("new", "Nr.")
        );
        alter table "My Shop"."Ord""er's %s" drop column gone;
        insert into "My Shop"."Ord""er's %s" ("Nr.", "new", "old", "100%", one)
        select i % 10, i / 10, 'then', i, i from generate_series(0, 99) i;
        """
    )
    table = '"My Shop"."Ord""er\'s %s"'
    columns = ["new", "100%", "doubled", "a$attached$b", "body", "old"]
    await attach(orders, table, account="Nr.", columns=columns, condition='1 / (98 - new."100%") < 1 and new.old <> old.old')
    await orders.execute(f"update {table} set \"old\" = 'now' where one > 96")
    assert await bodies(orders) == ['{"new":"9","100%":99,"doubled":198,"a$attached$b":1,"body":null,"old":"now"}']
    assert await faults(orders) == [("22012", 1)]


async def test_a_partitioned_table(orders: db.Connection) -> None:
    """Rows of every partition are seen, those that an update moves to another one too."""
    await orders.execute(
        "create table shop.bill (id integer, shop_id integer, status text, primary key (id, status)) "
        "partition by list (status);"
        "create table shop.bill_open partition of shop.bill for values in ('open');"
        "create table shop.bill_paid partition of shop.bill for values in ('paid', 'sent')"
    )
    await attach(orders, "shop.bill", "insert", topic="bill/new", columns=["id"])
    await attach(orders, "shop.bill", topic="bill/changed", columns=["id", "status"])
    await attach(orders, "shop.bill", topic="bill/renamed", columns=["id"], condition="old.id = new.id")
    await orders.execute(
        "insert into shop.bill select i, 1, case when i < 3 then 'open' else 'paid' end from generate_series(1, 4) i"
    )
    await orders.execute("update shop.bill set status = 'sent' where id <> 4")
    assert len(await bodies(orders, "bill/new")) == 4
    assert sorted(await bodies(orders, "bill/changed")) == [f'{{"id":{i},"status":"sent"}}' for i in (1, 2, 3)]
    assert (await bodies(orders, "bill/renamed"), await faults(orders)) == ([], [("BISD1", 3)])


async def test_other_ways_to_write(orders: db.Connection) -> None:
    """INSERT with ON CONFLICT, MERGE and COPY: what was inserted is an insert, what was updated an update."""
    await attach(orders, on="insert", topic="order/new", columns=["id"])
    await attach(orders, columns=["id"], condition=PAID)
    await orders.execute(
        "insert into shop.orders (id, shop_id, status) values (1000, 1, 'paid'), (1001, 1, 'paid') "
        "on conflict (id) do update set status = excluded.status"
    )
    await orders.copy_records_to_table("orders", schema_name="shop", columns=["id", "shop_id"], records=[(1002, 1)])
    if orders.get_server_version() >= (15,):
        await orders.execute(
            "merge into shop.orders o using (values (999), (1003)) as v (id) on o.id = v.id "
            "when matched then update set status = 'paid' when not matched then insert (id, shop_id) values (v.id, 1)"
        )
    assert await bodies(orders, "order/new") == ['{"id":1001}', '{"id":1002}', '{"id":1003}']
    assert await bodies(orders) == ['{"id":1000}', '{"id":999}']


async def test_the_application_needs_no_right(orders: db.Connection) -> None:
    """A role that may write its own table and nothing else makes events, counts its faults, and can neither attach nor call the
    trigger's function."""
    await attach(orders, columns=["id"])
    await orders.execute(
        "do $$ begin create role shop_app; exception when duplicate_object then null; end $$;"
        "grant usage on schema shop to shop_app; grant select, update on shop.orders to shop_app;"
        "update shop.orders set shop_id = null where id = 2; delete from bisd.event; delete from bisd.attachment_fault;"
        "set role shop_app"
    )
    await orders.execute("update shop.orders set status = 'paid' where id <= 2")
    for statement in ("select bisd.attach('shop.orders', 'a', 'insert', 'shop_id')", "select bisd.attached_1()",
                      "select * from bisd.event", "insert into bisd.attachment_fault values (1, now(), 'x', 1)"):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await orders.execute(statement)
    await orders.execute("reset role")
    assert (await bodies(orders), await faults(orders)) == (['{"id":1}'], [("23502", 1)])
    ours = "select count(*) from pg_proc where pronamespace = 'bisd'::regnamespace"
    assert await orders.fetchval(f"{ours} and has_function_privilege('shop_app', oid, 'execute')") == 0


async def test_roles_may_look(orders: db.Connection) -> None:
    """The daemon and the reader may see what is attached and what failed, and change nothing of it."""
    for role in ("bisd_daemon", "bisd_reader"):
        await orders.execute(f"set role {role}")
        assert await orders.fetch(db.query("list_attachments")) == []
        for statement in ("delete from bisd.attachment", "delete from bisd.attachment_fault"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await orders.execute(statement)
        await orders.execute("reset role")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"table": "shop.paid"}, "shop.paid is not a table that lasts"),
        ({"table": "shop.part"}, "shop.part is a partition"),
        ({"table": "pg_temp.passing"}, "not a table of the application"),
        ({"table": "bisd.event"}, "bisd.event is not a table of the application"),
        ({"table": "pg_catalog.pg_class"}, "pg_class is not a table of the application"),
        ({"table": None}, "there is no such table"),
        ({"topic": "a b"}, '"a b" cannot be a topic'),
        ({"topic": None}, "cannot be a topic"),
        ({"on": "delete"}, '"delete" is nothing to attach to'),
        ({"on": None}, "is nothing to attach to"),
        ({"columns": ["id", "nope"]}, "id, nope cannot be the columns"),
        ({"columns": ["id", "id"]}, "id, id cannot be the columns"),
        ({"columns": ["id", None]}, "cannot be the columns"),
        ({"columns": []}, "none cannot be the columns"),
        ({"columns": ["ctid"]}, "ctid cannot be the columns"),
        ({"columns": ["id"], "body": "new.document"}, "either columns or an expression"),
        ({"account": None}, "whose event it is must be said"),
        ({"account": ""}, "whose event it is must be said"),
        ({"account": "nope"}, 'the account nope cannot be used: column "nope" does not exist'),
        ({"account": "title"}, "the account new.title is of type text, not bigint"),
        ({"account": "id + 1"}, "is ambiguous"),
        ({"account": "new.nope"}, "column new.nope does not exist"),
        ({"account": "new.total"}, "is of type numeric, not bigint"),
        ({"account": "count(*)"}, "aggregate functions are not allowed"),
        ({"account": "generate_series(1, 2)"}, "set-returning functions are not allowed"),
        ({"account": "new.ctid"}, "does not exist"),
        ({"body": "new.id"}, "the body new.id is of type bigint, not json"),
        ({"body": "to_jsonb(new.id)"}, "is of type jsonb, not json"),
        ({"condition": "new.id"}, "the condition new.id is of type bigint, not boolean"),
        ({"condition": "new.id ="}, "syntax error"),
        ({"condition": ""}, "syntax error"),
        ({"condition": "unknown_function(new.id)"}, "unknown_function(bigint) does not exist"),
        ({"condition": "1 / 0 > 1"}, "division by zero"),
        ({"condition": "$1"}, "there is no parameter $1"),
        ({"condition": "tg_op = 'UPDATE'"}, 'column "tg_op" does not exist'),
        ({"on": "insert", "condition": "old.id = 1"}, 'missing FROM-clause entry for table "old"'),
        ({"table": "shop.keyless", "condition": "new.id <> old.id"}, "shop.keyless has no primary key"),
        ({"topic": "taken"}, "shop.orders is attached already: taken on update"),
    ],
    ids=str,
)  # fmt: skip
async def test_refusals(options: dict[str, Any], reason: str, orders: db.Connection) -> None:
    """What could not work is refused before it is attached, with SQLSTATE BISD0, a sentence, and a hint."""
    await orders.execute(
        "create view shop.paid as select * from shop.orders; create table shop.keyless (id integer, shop_id integer);"
        "create table shop.whole (id integer, shop_id integer) partition by range (id);"
        "create table shop.part partition of shop.whole default; create temp table passing (id integer, shop_id integer)"
    )
    await attach(orders, topic="taken")
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await attach(orders, **options)
    assert refusal.value.sqlstate == "BISD0"
    assert reason in str(refusal.value)
    assert refusal.value.hint
    assert await orders.fetchval("select count(*) from pg_trigger where tgname ~ '^bisd_attached'") == 1


async def test_a_table_without_a_key(orders: db.Connection) -> None:
    """It needs none where nothing is compared with `old`."""
    await orders.execute(
        "create table shop.keyless (id integer, shop_id integer); insert into shop.keyless values (1, 1), (1, 1)"
    )
    await attach(orders, "shop.keyless", condition="new.id = 2")
    await orders.execute("update shop.keyless set id = 2")
    assert len(await bodies(orders)) == 2


async def test_a_virtual_column_is_not_told_as_null(orders: db.Connection) -> None:
    """PostgreSQL does not compute virtual columns for triggers: they are refused rather than sent without their value."""
    if orders.get_server_version() < (18,):
        pytest.skip("PostgreSQL 18 has virtual columns")
    await orders.execute("alter table shop.orders add doubled numeric generated always as (total * 2) virtual")
    with pytest.raises(asyncpg.PostgresError, match="cannot be the columns"):
        await attach(orders, columns=["doubled"])
    with pytest.raises(asyncpg.PostgresError, match=r"column new\.doubled does not exist"):
        await attach(orders, condition="new.doubled > 2")


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["id) from shop.orders; drop table shop.victim; --"]},
        {"account": "shop_id); drop table shop.victim; --"},
        {"account": "1) as value; drop table shop.victim; select (1"},
        {"condition": "true); drop table shop.victim; --"},
        {"condition": "true) is not null) as it on true; drop table shop.victim; --"},
        {"body": "'1'::json)); end $$; drop table shop.victim; --"},
        {"topic": "a'); drop table shop.victim; --"},
        {"topic": "a');drop/**/table/**/shop.victim;--"},
        {"topic": "$lenient$;drop/**/table/**/shop.victim;--%s"},
    ],
)
async def test_nothing_else_is_executed(options: dict[str, Any], orders: db.Connection) -> None:
    """Names and topics stay names and topics, and an expression is one expression: what it brings along is not executed,
    neither when it is attached nor afterwards."""
    await orders.execute("create table shop.victim ()")
    try:
        await attach(orders, **options)
    except asyncpg.PostgresError as refusal:
        assert refusal.sqlstate == "BISD0"  # the others are topics, strange ones
    await orders.execute("update shop.orders set status = 'paid' where id = 1")
    assert await orders.fetchval("select to_regclass('shop.victim') is not null")
    topic = options.get("topic", "")
    assert len(await bodies(orders, topic)) == (1 if topic and " " not in topic else 0)


async def test_not_the_owner(orders: db.Connection) -> None:
    """Who neither owns the table nor may write events is told so, and what to do."""
    await orders.execute(
        "do $$ begin create role shop_other; exception when duplicate_object then null; end $$;"
        "grant usage on schema bisd, shop to shop_other; grant execute on all functions in schema bisd to shop_other;"
        "grant select on bisd.attached, bisd.attachment to shop_other; create table shop.mine (shop_id integer);"
        "alter table shop.mine owner to shop_other; set role shop_other"
    )
    for call in ("bisd.attach('shop.orders', 'a', 'insert', 'shop_id')", "bisd.detach('shop.orders')"):
        with pytest.raises(asyncpg.PostgresError, match=r"bisd: shop\.orders belongs to .*") as refusal:
            await orders.execute(f"select {call}")
        assert (refusal.value.sqlstate, "grant" in str(refusal.value.hint)) == ("BISD0", True)
    with pytest.raises(asyncpg.PostgresError, match="bisd: shop_other may not write events"):
        await orders.execute("select bisd.attach('shop.mine', 'a', 'insert', 'shop_id')")


async def test_detach(orders: db.Connection) -> None:
    """Ends one topic or all, leaves nothing behind but the events that there are, and refuses where there is nothing."""
    for topic in ("a", "b", "c"):
        await attach(orders, topic=topic, columns=["id"])
    await orders.execute("update shop.orders set shop_id = null where id = 1; update shop.orders set status = 'x' where id = 2")
    await orders.execute("select bisd.detach('shop.orders', 'b')")
    assert [row[0] for row in await orders.fetch("select topic from bisd.attachment order by id")] == ["a", "c"]
    assert len(await faults(orders)) == 2
    await orders.execute("select bisd.detach('shop.orders')")
    await orders.execute("update shop.orders set status = 'y'")
    assert await orders.fetchval("select count(*) from bisd.event") == 3
    left = "pg_proc where pronamespace = 'bisd'::regnamespace and proname ~ '^attached_[0-9]'"
    for what in (left, "bisd.attachment", "bisd.attachment_fault"):
        assert await orders.fetchval(f"select count(*) from {what}") == 0
    for call in ("bisd.detach('shop.orders')", "bisd.detach('shop.orders', 'b')"):
        with pytest.raises(asyncpg.PostgresError, match=r"nothing is attached to shop\.orders") as refusal:
            await orders.execute(f"select {call}")
        assert refusal.value.sqlstate == "BISD0"


async def test_a_table_renamed_and_dropped(orders: db.Connection) -> None:
    """A renamed table keeps its events, and a fault in one row is still told apart; one that is dropped is listed as gone, by
    the name it had, and forgotten with the next attachment."""
    await attach(orders, columns=["id"])
    await orders.execute("create schema tea; alter table shop.orders rename to sales; alter table shop.sales set schema tea")
    await orders.execute("update tea.sales set shop_id = nullif(id, 2) where id <= 3")
    assert await bodies(orders) == ['{"id":1}', '{"id":3}']

    async def listed() -> list[tuple[Any, ...]]:
        rows = await orders.fetch(db.query("list_attachments"))
        return [(row["table"], row["state"], row["faults"], row["last_fault"]) for row in rows]

    assert await listed() == [("tea.sales", "attached", 1, "23502")]
    await orders.execute("alter table tea.sales disable trigger all")
    assert await listed() == [("tea.sales", "switched off", 1, "23502")]
    await orders.execute("drop table tea.sales; create table shop.orders (id integer primary key, shop_id integer)")
    assert await listed() == [("shop.orders", "gone", 1, "23502")]
    await attach(orders)
    assert await listed() == [("shop.orders", "attached", 0, None)]
    assert await orders.fetchval("select to_regproc('bisd.attached_1')") is None


@pytest.mark.parametrize("first", [1, 10_000])
async def test_a_session_s_first_statement_does_not_spoil_its_plans(first: int, orders: db.Connection) -> None:
    """One row and ten thousand, in either order, each take the time they must; a condition's own query goes by its index."""
    await orders.execute(
        "insert into shop.orders (id, shop_id) select i, 1 from generate_series(1001, 10001) i;"
        "create table shop.line (order_id bigint, product text); create index on shop.line (order_id);"
        "insert into shop.line select i, 'tea' from generate_series(1, 100000) i; analyze shop.line"
    )
    await attach(orders, columns=["id"], condition=f"{PAID} and exists (select from shop.line l where l.order_id = new.id)")
    limit = {1: "id = 10001", 10_000: "id <= 10000"}
    for number in (first, 10_001 - first):
        async with asyncio.timeout({1: 0.5, 10_000: 5}[number]):
            await orders.execute(f"update shop.orders set status = 'paid' where {limit[number]}")
    assert len(await bodies(orders)) == 10_001


async def test_a_fault_among_many(orders: db.Connection) -> None:
    """One bad row among 20,000 that do not fit into memory: the others' events are made, in seconds."""
    await orders.execute("set work_mem = '64kB'")
    await attach(orders, on="insert", columns=["id"])
    async with asyncio.timeout(20):
        await orders.execute(
            "insert into shop.orders (id, shop_id) select i, nullif(i, 7777) from generate_series(1001, 21000) i"
        )
    assert await orders.fetchval("select count(distinct body->>'id') from bisd.event") == 19_999
    assert await faults(orders) == [("23502", 1)]


async def test_two_attach_at_once(orders: db.Connection, connect: Connect) -> None:
    """Of two who attach the same at once, one does and the other is refused."""
    both = [await connect(), await connect()]
    tries = await asyncio.gather(*map(attach, both), return_exceptions=True)
    assert sorted(getattr(one, "sqlstate", "") for one in tries) == ["", "BISD0"]
    assert await orders.fetchval("select count(*) from bisd.attachment") == 1


@pytest.fixture
def bisd(dsn: str, tmp_path: Path) -> Run:
    """Runs `bisd ...` on this test's database."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bisd", *arguments],
            input="", capture_output=True, text=True, timeout=60, env=os.environ | {"BISD_DATABASE_DSN": dsn},
        )  # fmt: skip

    return run


async def test_the_commands(orders: db.Connection, bisd: Run) -> None:
    """attach, attachments and detach, as an operator types them."""
    update = ("--topic", "order/paid", "--on", "update", "--account", "shop_id", "--columns", "id, title", "--when", PAID)
    assert bisd("attach", "shop.orders", *update).stdout == "shop.orders is attached: order/paid on update.\n"
    insert = ("--topic", "order/new", "--on", "insert", "--account", "new.shop_id", "--body", "to_json(new.id)", "--strict")
    assert bisd("attach", "shop.orders", *insert).returncode == 0
    await orders.execute("update shop.orders set status = 'paid' where id = 1")
    await orders.execute("update shop.orders set status = 'paid', shop_id = null where id = 2")
    with pytest.raises(asyncpg.NotNullViolationError):
        await orders.execute("insert into shop.orders (id) values (1001)")
    assert await bodies(orders) == ['{"id":1,"title":"Tea 1"}']
    listed = json.loads(bisd("attachments", "--json").stdout)
    shown = [[row[key] for key in ("table", "topic", "on", "state", "strict", "faults", "last_fault")] for row in listed]
    assert shown == [
        ["shop.orders", "order/paid", "update", "attached", False, 1, "23502"],
        ["shop.orders", "order/new", "insert", "attached", True, 0, None],
    ]
    asked = bisd("detach", "shop.orders")
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    assert bisd("detach", "shop.orders", "--topic", "order/new", "--yes").stdout == "shop.orders is detached.\n"
    assert bisd("detach", "shop.orders", "--yes").returncode == 0
    assert "Nothing is attached yet" in bisd("attachments").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["attach", "nowhere", "--topic", "a", "--on", "insert", "--account", "id"], 1, "there is no table nowhere"),
        (["attach", "no.where", "--topic", "a", "--on", "insert", "--account", "id"], 1, "there is no table no.where"),
        (["attach", "a.b.c.d", "--topic", "a", "--on", "insert", "--account", "id"], 1, "there is no table a.b.c.d"),
        (["attach", 'x"', "--topic", "a", "--on", "insert", "--account", "id"], 1, "there is no table"),
        (["attach", "", "--topic", "a", "--on", "insert", "--account", "id"], 1, "there is no table"),
        (["attach", "shop.orders", "--topic", "a", "--on", "insert", "--account", "nope"], 1, 'column "nope" does not exist'),
        (["attach", "shop.orders", "--topic", "a", "--on", "delete", "--account", "id"], 2, "is not one of"),
        (
            ["attach", "shop.orders", "--topic", "a", "--on", "insert", "--account", "a", "--columns", "a", "--body", "b"],
            2,
            "one or",
        ),
        (["detach", "nowhere", "--yes"], 1, "there is no table nowhere"),
        (["detach", "shop.orders", "--yes"], 1, "nothing is attached to shop.orders"),
    ],
)
async def test_the_commands_refuse(arguments: list[str], code: int, sentence: str, orders: db.Connection, bisd: Run) -> None:
    """In a sentence on standard error, with the exit status of the interface."""
    ran = bisd(*arguments)
    assert ran.returncode == code
    assert sentence in ran.stderr.replace("\n", " ")
    assert "Traceback" not in ran.stderr


async def test_a_busy_table_is_not_waited_for(orders: db.Connection, connect: Connect, bisd: Run) -> None:
    """Behind who waits to attach, the application would wait: it gives up after a moment, and says so."""
    other = await connect()
    async with other.transaction():
        await other.execute("update shop.orders set status = 'x' where id = 1")
        ran = await asyncio.to_thread(bisd, "attach", "shop.orders", "--topic", "a", "--on", "insert", "--account", "id")
    assert (ran.returncode, "is in use by a transaction" in ran.stderr) == (1, True)
