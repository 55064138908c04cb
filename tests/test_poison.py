"""Poison: whatever can stand in a row ends as it is defined to end, and delays nothing else (what cannot: test_schema)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bisd.config import KeysConfig
from bisd.keyring import Keyring
from tests.support.daemon import Process, configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

MEGABYTE = 1 << 20
_EVENT = "insert into bisd.event (account_id, topic, body) values ($1, 'poison', ({})::text::json) returning id"
_SENT = ("delivered", 1, 200, None)
_TOO_BIG = ("refused", 0, None, "body_too_big")

# By what is wrong with it: the text of a body, as SQL, and what becomes of it.
BODIES = {
    "null": ("'null'", _SENT),
    "an empty string": ("'\"\"'", _SENT),
    "zero": ("'0'", _SENT),
    "an empty array": ("'[]'", _SENT),
    "a truth": ("'true'", _SENT),
    "spaces around it": ("e' \\t{}\\n '", _SENT),
    "NUL, which jsonb refuses": (r"""'{"a": "\u0000"}'""", _SENT),
    "half a surrogate": (r"""'{"a": "\ud800"}'""", _SENT),
    "the other half": (r"""'{"\udc00": 1}'""", _SENT),
    "control characters of Unicode": (r"""'{"a": "\u202e\u2028 ' || chr(8238) || chr(8232) || '"}'""", _SENT),
    "beyond the basic plane": ("""'{"a": "' || chr(128169) || '"}'""", _SENT),
    "5,000 digits": ("repeat('9', 5000)", _SENT),
    "ten bytes that are 131,072 digits": ("'1e131071'", _SENT),
    "no number of IEEE 754": ("'[1e400, -1e-400]'", _SENT),
    "depth 10,000": ("repeat('[', 10000) || repeat(']', 10000)", _SENT),
    "a name twice, and out of order": ("""'{"b": 1, "a": 2, "b": 3}'""", _SENT),
    "60,000 names": (
        "'{' || (select string_agg(format('\"%s\": %s', n, n), ',') from generate_series(1, 60000) n) || '}'",
        _SENT,
    ),
    "as large as is sent": (f"'\"' || repeat('x', {MEGABYTE} - 2) || '\"'", _SENT),
    "one octet too many": (f"'\"' || repeat('x', {MEGABYTE} - 1) || '\"'", _TOO_BIG),
    "too large in octets, not in characters": (f"'\"' || repeat('é', {MEGABYTE} / 2) || '\"'", _TOO_BIG),
    "10 MB": (f"'\"' || repeat('x', {10 * MEGABYTE}) || '\"'", _TOO_BIG),
}

# Rows of events that are odd otherwise: columns and values, as SQL, and what becomes of the delivery. $1 is the account.
EVENTS = {
    "a negative id": ("id, account_id, topic, body", "-7, $1, 'poison', '{}'", _SENT),
    "the largest id": ("id, account_id, topic, body", "9223372036854775807, $1, 'poison', '{}'", _SENT),
    "the first day there is": ("account_id, topic, body, created_at", "$1, 'poison', '{}', '1970-01-01'", _SENT),
    "the last year there is": (
        "account_id, topic, body, created_at",
        "$1, 'poison', '{}', '8999-12-31 23:59:59.999999'",
        _SENT,
    ),
    "between two microseconds": (
        "account_id, topic, body, created_at",
        "$1, 'poison', '{}', '2020-02-29 12:00:00.0000005'",
        _SENT,
    ),
    "no trace": ("account_id, topic, body, traceparent", "$1, 'poison', '{}', null", _SENT),
}


@pytest.fixture
async def poisoned(shop: Shop, receiver: Receiver) -> tuple[int, int]:
    """A webhook that gets poison, and one that gets what is well."""
    return await shop.subscribe("poison", receiver.url + "poison"), await shop.subscribe("notification/create", receiver.url)


async def _is_settled(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _well(shop: Shop, receiver: Receiver) -> float:
    """A customer waits; seconds until the merchant knows."""
    before = sum(got.path == "/" for got in receiver.requests)
    began = time.monotonic()
    await shop.notify()
    await eventually(lambda: _arrived(receiver, before + 1), 5)
    return time.monotonic() - began


async def _arrived(receiver: Receiver, number: int) -> bool:
    return sum(got.path == "/" for got in receiver.requests) >= number


async def test_any_body_is_sent_as_it_is_or_refused(
    poisoned: tuple[int, int], shop: Shop, receiver: Receiver, ca_file: Path, dsn: str
) -> None:
    """Octet for octet as the database has it; what is too large is settled as that; and between any two of them a customer's
    notification takes no longer than it may."""
    expected, states, sent = {}, {}, {}
    slowest = 0.0
    async with running(configure(ca_file), dsn):
        for name, (body, state) in BODIES.items():
            event_id = await shop.connection.fetchval(_EVENT.format(body), shop.account_id)
            expected[event_id] = (name, state)
            slowest = max(slowest, await _well(shop, receiver))
        await eventually(lambda: _is_settled(shop))
    rows = await shop.connection.fetch(
        "select event_id, state, attempts, last_status, last_error, convert_to(e.body::text, 'UTF8') as body "
        "from bisd.delivery_status s join bisd.event e on e.id = s.event_id where s.webhook_id = $1",
        poisoned[0],
    )
    for row in rows:
        states[expected[row["event_id"]][0]] = tuple(row)[1:5]
        sent[row["event_id"]] = [row["body"]] if row["state"] == "delivered" else []
    assert {name: state for name, state in expected.values()} == states
    got = {event_id: [one.body for one in receiver.requests if one.id == f"evt_{event_id}"] for event_id in sent}
    assert [] == [expected[event_id][0] for event_id in sent if sent[event_id] != got[event_id]]
    assert slowest < 1.0


async def test_any_event_is_sent(poisoned: tuple[int, int], shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Whatever its id and its time."""
    states = {}
    async with running(configure(ca_file), dsn):
        for name, (columns, values, _) in EVENTS.items():
            event_id = await shop.connection.fetchval(
                f"insert into bisd.event ({columns}) overriding system value values ({values}) returning id", shop.account_id
            )
            await _well(shop, receiver)
            await eventually(lambda: _is_settled(shop))
            row = await shop.connection.fetchrow(
                "select state, attempts, last_status, last_error from bisd.delivery_status "
                "where event_id = $1 and webhook_id = $2",
                event_id, poisoned[0],
            )  # fmt: skip
            states[name] = tuple(row)
            assert f"evt_{event_id}" in receiver.ids()
    assert {name: state for name, (_, _, state) in EVENTS.items()} == states


async def test_what_is_far_too_large_is_not_read(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path
) -> None:
    """A body of 100 MB, on every way that a daemon reads: it is owed at the start, it arrives, it is a test's."""
    webhook_id = await shop.subscribe("poison", receiver.url)
    await shop.subscribe("notification/create", receiver.url)
    huge = _EVENT.format(f"'\"' || repeat('x', {100 * MEGABYTE}) || '\"'")
    first = await shop.connection.fetchval(huge, shop.account_id)
    async with Process(tmp_path, dsn, ca_file).in_order() as daemon:
        await _well(shop, receiver)
        await shop.connection.execute(huge, shop.account_id)
        await eventually(lambda: _is_settled(shop))
        await shop.connection.execute(
            "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, test) "
            "select $1, id, created_at, octet_length(body::text), true from bisd.event where id = $2",
            webhook_id, first,
        )  # fmt: skip
        await _well(shop, receiver)
        await eventually(lambda: _is_settled(shop))
        peak = _peak(daemon.pid)
    verdicts = await shop.connection.fetch(
        "select verdict::text, code, number, test from bisd.attempt where webhook_id = $1 order by attempted_at", webhook_id
    )
    assert [("refused", "body_too_big", None, test) for test in (False, False, True)] == [tuple(row) for row in verdicts]
    assert peak < 150 * MEGABYTE


def _peak(pid: int) -> int:
    """The most that a process has had in memory, in octets."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


# What a hand can do to the tables of a daemon that holds three deliveries for later: the statements; how many of the three
# still arrive, and how many stay owed. (What it holds it sends, and finds out when it writes.)
_PARTITIONS = """
    do $$
    declare
        one regclass;
    begin
        for one in
            select inhrelid from pg_inherits
            where inhparent in ('bisd.event'::regclass, 'bisd.attempt'::regclass) and inhrelid::regclass::text !~ 'default'
        loop
            execute format('drop table %s', one);
        end loop;
    end $$"""
_SWITCHES = """
    do $$
    begin
        for n in 1..100 loop
            perform bisd.disable_webhook(1);
            commit;
            perform bisd.enable_webhook(1);
            commit;
        end loop;
    end $$"""
_OWED_TO_NOBODY = """
    insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes)
    select 987654, id, created_at, 2 from bisd.event where topic = 'poison'"""
MEDDLING = {
    "what is owed is deleted": (["delete from bisd.delivery"], 3, 0),
    "what is owed is truncated": (["truncate bisd.delivery"], 3, 0),
    "the history is truncated": (["truncate bisd.attempt"], 3, 0),
    "the events are deleted": (["delete from bisd.event"], 3, 0),
    "all partitions are gone": ([_PARTITIONS], 3, 0),
    "the tables are written anew": (["vacuum full bisd.delivery", "vacuum full bisd.webhook", "vacuum full bisd.event"], 3, 0),
    "the indexes are gone": (["drop index bisd.delivery_lane", "drop index bisd.delivery_arrival"], 3, 0),
    "tried more often than anything is": (
        ["update bisd.delivery set attempts = 1000000, due_at = now(), txid = pg_current_xact_id()"],
        3,
        0,
    ),
    "due in the last year there is": (["update bisd.delivery set due_at = '8999-01-01', txid = pg_current_xact_id()"], 0, 3),
    "due since the first day there is": (["update bisd.delivery set due_at = '1970-01-01', txid = pg_current_xact_id()"], 3, 0),
    "said to be empty": (["update bisd.delivery set bytes = 0, txid = pg_current_xact_id()"], 3, 0),
    "said to be endless": (["update bisd.delivery set bytes = 2147483647, txid = pg_current_xact_id()"], 0, 0),
    "owed to nobody": ([_OWED_TO_NOBODY], 3, 3),
    "switched a hundred times": ([_SWITCHES], 3, 0),
}


@pytest.mark.parametrize("meddling", MEDDLING)
async def test_whoever_meddles_with_the_tables(meddling: str, shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What is left of what was owed is sent once more, and what comes next arrives at once."""
    statements, arrive, stay = MEDDLING[meddling]
    await shop.subscribe("poison", receiver.url + "poison")
    await shop.subscribe("notification/create", receiver.url)
    config = configure(ca_file)
    receiver.statuses = [500, 500, 500]
    async with running(replace(config, retry=replace(config.retry, schedule=[timedelta(milliseconds=700)])), dsn):
        for _ in range(3):
            await shop.connection.execute(_EVENT.format("'{}'"), shop.account_id)
        await eventually(lambda: _are_put_off(shop, 3))
        for statement in statements:
            await shop.connection.execute(statement)
        assert await _well(shop, receiver) < 1
        await receiver.received(3 + arrive + 1)
        await eventually(lambda: _are_owed(shop, stay))
        assert await _well(shop, receiver) < 1
    assert 3 + arrive == sum(got.path == "/poison" for got in receiver.requests)
    assert max(receiver.ids().values()) <= 2
    assert stay == await shop.owed()


async def _are_put_off(shop: Shop, number: int) -> bool:
    return number == await shop.connection.fetchval("select count(*) from bisd.delivery where attempts = 1")


async def _are_owed(shop: Shop, number: int) -> bool:
    return number == await shop.owed()


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Shop]:
    """Another account's owner."""
    other = await Shop.open(dsn)
    yield other
    await other.connection.close()


async def test_a_key_that_cannot_be_opened(
    shop: Shop, other: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An octet of it has changed: its account's deliveries wait, and nobody is to blame; another account's arrive. When it is
    whole again all goes out, without a restart."""
    (tmp_path / "master").write_text("11" * 32)
    config = replace(configure(ca_file), keys=KeysConfig(master_file=tmp_path / "master"))
    sealed = Keyring(config.keys).seal(other.account_id, other.key)
    set_key = "update bisd.account set api_key = $2 where id = $1"
    await other.connection.execute(set_key, other.account_id, sealed[:-3] + ("AAA" if sealed[-3:] != "AAA" else "BBB"))
    await shop.subscribe("notification/create", receiver.url)
    webhook_id = await other.subscribe("notification/create", receiver.url + "other")
    async with running(config, dsn):
        await other.notify(3)
        assert await _well(shop, receiver) < 1
        assert ["/"] == [got.path for got in receiver.requests]
        assert (3, 0, None) == tuple(await shop.connection.fetchrow(
            "select (select count(*) from bisd.delivery where webhook_id = w.id), failures, failing_since "
            "from bisd.webhook w where id = $1", webhook_id
        ))  # fmt: skip
        await other.connection.execute(set_key, other.account_id, sealed)
        await eventually(lambda: _is_settled(shop))
    assert 3 == sum(got.path == "/other" for got in receiver.requests)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ("key_unreadable", other.account_id) in [(line["event"], line.get("account_id")) for line in told]
