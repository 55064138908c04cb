"""bisd check: every setup that is broken in a way it knows is found, and said with what to do; the others are not."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import trustme
from asyncpg.exceptions import TargetServerAttributeNotMatched

from bisd import blueprint, db, log
from bisd import check as doctor
from bisd.address import Address
from bisd.check import Finding, Level, Subject, activity, server, session
from bisd.check.egress import judge as judge_hosts
from bisd.check.finding import age, some
from bisd.config import Config, DatabaseConfig, KeysConfig
from bisd.errors import ServerUnfitError
from bisd.model import Code, Fault, NoResponse, Refusal, Timings
from bisd.service import Service
from tests.support import blueprint as writer
from tests.support.cli import Run
from tests.support.daemon import configure, running
from tests.support.names import names
from tests.support.pooler import Pooler
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually
from tests.test_own_faults import asks

Said = tuple[Level, str]
WARNING, FAULT, UNSEEN = Level.WARNING, Level.FAULT, Level.UNSEEN
# The tests' server need not survive a power cut, and their keys are in plain: both are said.
USUAL = {Subject.SETTINGS, Subject.KEYS}


async def found(dsn: str, config: Config | None = None, file: Path | None = None) -> dict[Subject, list[Said]]:
    """All that is not well, by subject."""
    said: dict[Subject, list[Said]] = {}
    for finding in await doctor.check(dsn, config or Config(), file):
        if finding.level is not Level.OK:
            said.setdefault(finding.subject, []).append((finding.level, finding.says))
    return said


def as_role(dsn: str, role: str) -> str:
    """The server trusts whoever comes by its socket."""
    return dsn.replace(f"//{urlsplit(dsn).netloc}/", f"//{role}@/", 1)


@pytest.fixture
async def role(shop: Shop) -> AsyncIterator[str]:
    """A login role without any right; roles belong to the whole server."""
    await shop.connection.execute("drop role if exists checked; create role checked login")
    yield "checked"
    await shop.connection.execute("reassign owned by checked to current_user; drop owned by checked; drop role checked")


async def test_nothing_is_wrong_where_nothing_is(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Every subject is looked at, and all are well, but for what this test's server is like; attachments and partitions are no
    drift; nothing is sent to a receiver."""
    await shop.subscribe("notification/create", receiver.url)
    await shop.connection.execute("create table public.orders (id bigint, shop_id bigint)")
    await shop.connection.execute(
        "select bisd.attach('public.orders', 'order/made', 'insert', account := 'shop_id', columns := '{id}')"
    )
    findings = await doctor.check(dsn, configure(ca_file), None)
    assert list(Subject) == list(dict.fromkeys(finding.subject for finding in findings))
    assert USUAL == {finding.subject for finding in findings if finding.level is not Level.OK}
    assert [] == receiver.requests


async def test_the_daemon_s_role_can_ask(shop: Shop, role: str, dsn: str) -> None:
    """It finds nothing wrong, and says of what it cannot see whom to ask; granted that, it sees that too."""
    await shop.connection.execute(f"grant bisd_daemon to {role}")
    said = await found(as_role(dsn, role))
    assert USUAL | {Subject.TRANSACTIONS} == said.keys()
    ((level, says),) = said[Subject.TRANSACTIONS]
    assert (UNSEEN, True) == (level, "grant pg_read_all_stats" in says)
    await shop.connection.execute(f"grant pg_read_all_stats to {role}")
    assert USUAL == (await found(as_role(dsn, role))).keys()


async def test_rights_that_the_role_lacks(shop: Shop, role: str, dsn: str) -> None:
    """With none at all it may not use the schema; with some, those are named that are missing, and what cannot be looked at
    keeps nobody from looking at the rest."""
    said = await found(as_role(dsn, role))
    assert [(FAULT, True)] == [(level, "grant bisd_daemon" in says) for level, says in said[Subject.DATABASE]]
    assert Subject.SESSION not in said
    await shop.connection.execute(f"grant bisd_reader to {role}")
    said = await found(as_role(dsn, role))
    ((level, says),) = said[Subject.RIGHTS]
    assert (FAULT, True, True) == (level, "insert on bisd.attempt" in says, "execute on bisd.beat()" in says)
    assert [UNSEEN] == [level for level, _ in said[Subject.KEYS]]


async def test_rights_that_the_pages_need(shop: Shop, role: str, dsn: str, ca_file: Path, tmp_path: Path) -> None:
    """A token for operators, and a role that may do nothing of what they want: said, until it may."""
    config = configure(ca_file)
    (tmp_path / "token").write_text("0f" * 32)
    face = replace(config.http, listen=Address(IPv4Address("127.0.0.1"), 8747), token_file=tmp_path / "token")
    await shop.connection.execute(f"grant bisd_daemon to {role}")

    async def lacking() -> list[str]:
        findings = await doctor.check(as_role(dsn, role), replace(config, http=face), None)
        return [one.says for one in findings if one.subject is Subject.RIGHTS and one.level is FAULT]

    (says,) = await lacking()
    assert "must be granted bisd_admin" in says
    assert "execute on bisd.create_webhook(bigint,text,text)" in says
    await shop.connection.execute(f"grant bisd_admin to {role}")
    assert [] == await lacking()


@pytest.mark.parametrize(
    ("statement", "level", "says"),
    [
        ("alter table bisd.webhook drop column probes cascade", FAULT, "missing: column bisd.webhook.probes"),
        ("alter table bisd.attempt alter column location type varchar(500)", FAULT, "made it: column bisd.attempt.location"),
        ("alter table bisd.delivery alter column attempts drop default", FAULT, "column bisd.delivery.attempts"),
        ("drop index bisd.delivery_arrival", FAULT, "missing: index bisd.delivery_arrival"),
        ("alter table bisd.delivery set unlogged", FAULT, "made it: table bisd.delivery"),
        ("alter table bisd.event enable row level security", FAULT, "made it: table bisd.event"),
        ("alter table bisd.webhook drop constraint webhook_check", FAULT, "missing: constraint bisd.webhook.webhook_check"),
        ("alter domain bisd.topic drop constraint topic_check", FAULT, "made it: type bisd.topic"),
        ("alter type bisd.verdict add value 'other'", FAULT, "made it: type bisd.verdict"),
        ("drop sequence bisd.bell", FAULT, "missing: sequence bisd.bell"),
        ("drop view bisd.webhook_event", FAULT, "missing: column bisd.webhook_event.account_id"),
        ("drop trigger created on bisd.notification", FAULT, "missing: trigger bisd.notification.created"),
        ("create or replace function bisd.ring() returns void language plpgsql security definer "
         "set search_path = pg_catalog, pg_temp as $$ begin end $$", FAULT, "made it: function bisd.ring()"),
        ("alter function bisd.fan_out() security invoker", FAULT, "made it: function bisd.fan_out()"),
        ("alter table bisd.webhook add column mine text", WARNING, "not made by bisd: column bisd.webhook.mine"),
        ("create function public.meddle() returns trigger language plpgsql as 'begin return new; end'; "
         "create trigger meddle before insert on bisd.delivery for each row execute function public.meddle()",
         WARNING, "trigger bisd.delivery.meddle"),
        ("grant select on bisd.account to public", WARNING, "not granted: right everybody on bisd.account"),
        ("grant execute on function bisd.restamp() to public", WARNING, "right everybody on bisd.restamp()"),
        ("grant delete on bisd.event to bisd_app", WARNING, "right bisd_app on bisd.event"),
        ("grant select (body) on bisd.event to bisd_reader", WARNING, "right bisd_reader on bisd.event.body"),
        ("revoke delete on bisd.delivery from bisd_daemon", FAULT, "or others: right bisd_daemon on bisd.delivery"),
        ("alter table bisd.plan owner to checked", FAULT, "bisd.plan: alter ... owner to"),
    ],
)  # fmt: skip
async def test_what_somebody_has_changed_by_hand(
    statement: str, level: Level, says: str, shop: Shop, role: str, dsn: str
) -> None:
    """Every kind of drift is named by what has drifted: what is missing or changed is a fault, what was added a warning."""
    await shop.connection.execute(statement)
    said = (await found(dsn))[Subject.SCHEMA]
    assert 1 == [says in sentence for found_level, sentence in said if found_level is level].count(True)


async def test_the_blueprint_is_what_the_migrations_make(shop: Shop) -> None:
    """If not: python -m tests.support.blueprint"""
    assert writer.FILE.read_text(encoding="utf-8") == writer.text(await blueprint.found(shop.connection))
    assert blueprint.expected() == await blueprint.found(shop.connection)


async def test_a_daemon_says_that_the_schema_has_drifted(
    shop: Shop, ca_file: Path, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what has drifted; it runs for as long as it can."""
    log.configure("warning", "json")
    await shop.connection.execute("drop index bisd.delivery_replayed; alter table bisd.webhook add column mine text")
    said = ""

    async def heard() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return said.endswith("\n")

    async with running(configure(ca_file), dsn):
        await eventually(heard)
    (line,) = map(json.loads, said.splitlines())
    assert ("schema_drifted", 1, ["index bisd.delivery_replayed"]) == (line["event"], line["count"], line["things"])


async def test_a_schema_of_another_version(server: Server) -> None:
    """Is said with what to do; what does not need the schema is looked at all the same, and nothing else."""
    said = await found(await server.create(migrated=False))
    assert {Subject.DATABASE, Subject.SETTINGS} == said.keys()
    assert [(FAULT, True)] == [(level, "run `bisd migrate` first" in says) for level, says in said[Subject.DATABASE]]


async def test_a_database_in_another_encoding(shop: Shop, dsn: str) -> None:
    """Nothing can be kept in it."""
    name = f"{urlsplit(dsn).path[1:]}_ascii"
    await shop.connection.execute(f"create database {name} encoding 'SQL_ASCII' locale 'C' template template0")
    said = await found(dsn.replace(urlsplit(dsn).path + "?", f"/{name}?"))
    assert [(FAULT, True)] == [(level, "its encoding is SQL_ASCII" in says) for level, says in said[Subject.DATABASE]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"netloc": "postgres@host.invalid"}, "its host has no address"),
        ({"netloc": "postgres@127.0.0.1:1"}, "nobody listens there"),
        ({"query": "host=/nowhere"}, "its Unix socket does not exist"),
        ({"path": "/elsewhere"}, 'database "elsewhere" does not exist'),
        ({"netloc": "nobody@"}, 'role "nobody" does not exist'),
        ({"scheme": "mysql"}, "is not a PostgreSQL URL"),
    ],
)
async def test_a_database_that_cannot_be_reached(change: dict[str, str], says: str, dsn: str) -> None:
    """The reason, of the same words for whatever lies behind it; this host is looked at all the same."""
    parts = urlsplit(dsn)
    url = parts._replace(**({"query": "" if "@h" in str(change) or "@1" in str(change) else parts.query} | change)).geturl()
    findings = await doctor.check(url, Config(), None)
    assert [Subject.CONFIGURATION, Subject.LIMITS, Subject.DATABASE] == [finding.subject for finding in findings]
    assert (FAULT, True) == (findings[-1].level, says in findings[-1].says)


async def test_a_server_that_does_not_answer() -> None:
    """Is given up after a few seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        findings = await doctor.check(f"postgresql://bisd@127.0.0.1:{listener.getsockname()[1]}/shop", Config(), None)
    assert "it does not answer" in findings[-1].says


@pytest.mark.parametrize(
    ("why", "says"),
    [
        (asyncpg.InvalidPasswordError("password authentication failed"), "it refuses the password"),
        (asyncpg.TooManyConnectionsError("sorry"), "no connection left"),
        (asyncpg.CannotConnectNowError("starting up"), "starts or stops just now"),
        (TargetServerAttributeNotMatched("none"), "name the primary"),
        (ssl.SSLError(1, "x"), "TLS fails"),
        (asyncpg.ProtocolViolationError("x"), "it cannot be reached (ProtocolViolationError, SQLSTATE 08P01)"),
        (OSError("hunter2"), "it cannot be reached (OSError)"),
    ],
)
def test_why_there_is_no_connection(why: Exception, says: str) -> None:
    """By the type of what was raised."""
    finding = server.unreachable(why)
    assert (FAULT, True, False) == (finding.level, says in finding.says, "hunter2" in finding.says)


async def test_triggers_that_are_switched_off(shop: Shop, dsn: str) -> None:
    """Are named: nothing would become an event."""
    await shop.connection.execute("alter table bisd.event disable trigger fan_out")
    await shop.connection.execute("alter table bisd.notification disable trigger user")
    ((level, says),) = (await found(dsn))[Subject.TRIGGERS]
    assert (FAULT, True) == (level, all(f"{name} on bisd." in says for name in ("fan_out", "created", "sent", "mark_sent")))


async def test_days_without_a_partition(shop: Shop, dsn: str) -> None:
    """Those that are missing, today or ahead, and what the default partitions had to take for want of them."""
    tomorrow = await shop.connection.fetchval("select to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD')")
    await shop.connection.execute(f"drop table bisd.attempt_{tomorrow}")
    for day in (400, 500):
        await shop.connection.execute(
            "insert into bisd.event (account_id, topic, body, created_at) values (1, 't', '{}', now() + $1 * interval '1 day')",
            day,
        )
    missing, strays = (await found(dsn))[Subject.PARTITIONS]
    assert (WARNING, True) == (missing[0], f"missing: attempt_{tomorrow}:" in missing[1])
    assert (WARNING, True) == (strays[0], "bisd.event_default holds 2 rows" in strays[1])
    await shop.connection.execute("select bisd.make_partitions(7)")
    assert [strays] == (await found(dsn))[Subject.PARTITIONS]


async def test_transactions_that_do_not_end(
    shop: Shop, connect: Callable[[], Awaitable[db.Connection]], dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has been in one, for how long, and how to end it; those that idle sooner than those that work."""
    idler, worker = await connect(), await connect()
    await idler.execute("set application_name = 'idler'; begin; select 1")
    await worker.execute("set application_name = 'worker'; begin")
    working = asyncio.ensure_future(worker.execute("select pg_sleep(60)"))
    await eventually(lambda: _works(shop))
    monkeypatch.setattr(activity, "_IDLE", timedelta(0))
    ((level, says),) = (await found(dsn))[Subject.TRANSACTIONS]
    assert (WARNING, True, True) == (
        level,
        says.startswith("idler, postgres, pid ") and "idle in a transaction for 0 s" in says,
        f"pg_terminate_backend({idler.get_server_pid()})" in says,
    )
    monkeypatch.setattr(activity, "_OPEN", timedelta(0))
    assert {"idler", "worker"} == {says.split(",")[0] for _, says in (await found(dsn))[Subject.TRANSACTIONS]}
    worker.terminate()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await working


async def _works(shop: Shop) -> bool:
    return bool(
        await shop.connection.fetchval("select exists (select from pg_stat_activity where query = 'select pg_sleep(60)')")
    )


async def test_slots_that_nobody_reads(shop: Shop, dsn: str) -> None:
    """The server keeps WAL for them until its disk is full."""
    await shop.connection.execute("select pg_create_physical_replication_slot('left_behind', true)")
    try:
        ((level, says),) = (await found(dsn))[Subject.SLOTS]
    finally:
        await shop.connection.execute("select pg_drop_replication_slot('left_behind')")
    assert WARNING is level
    assert re.match(
        r"physical slot left_behind is read by nobody, and keeps \d+\.\d GiB of WAL: start its reader, or pg_drop", says
    )


async def test_a_table_that_is_not_vacuumed(shop: Shop, dsn: str) -> None:
    """Dead rows pile up: how many, since when, and that autovacuum is switched off."""
    await shop.connection.execute("alter table bisd.delivery set (autovacuum_enabled = false)")
    await shop.connection.execute(
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes) "
        "select 1, n, now(), 2 from generate_series(1, 60000) n"
    )
    await shop.connection.execute("delete from bisd.delivery")
    await shop.connection.execute("select pg_stat_force_next_flush()")
    await eventually(lambda: _is_counted(shop))
    switched_off, bloated = (await found(dsn))[Subject.BLOAT]
    assert "autovacuum is switched off for bisd.delivery" in switched_off[1]
    assert (WARNING, True) == (
        bloated[0],
        bloated[1].startswith("bisd.delivery has 60,000 dead rows beside 0, last vacuumed never"),
    )


async def _is_counted(shop: Shop) -> bool:
    return bool(
        await shop.connection.fetchval("select n_dead_tup >= 60000 from pg_stat_user_tables where relname = 'delivery'")
    )


@pytest.mark.parametrize(("by_transaction", "level"), [(True, FAULT), (False, None)])
async def test_a_pooler_in_between(by_transaction: bool, level: Level | None, shop: Shop, dsn: str) -> None:
    """One that gives each transaction another session is found, though each statement succeeds; one that keeps them is well."""
    pooler = Pooler(dsn, by_transaction=by_transaction)
    await pooler.start()
    try:
        findings = [finding for finding in await doctor.check(pooler.dsn, Config(), None) if finding.subject is Subject.SESSION]
    finally:
        await pooler.stop()
    says = "gives each transaction another session" if by_transaction else "through a pooler, which keeps sessions"
    assert [(level or Level.OK, True)] == [(finding.level, says in finding.says) for finding in findings]


async def test_a_daemon_does_not_start_where_transactions_are_pooled(shop: Shop, ca_file: Path, dsn: str) -> None:
    """The locks of its shards would stay with a session that is nobody's, and keep others from them."""
    pooler = Pooler(dsn, by_transaction=True)
    await pooler.start()
    try:
        with pytest.raises(ExceptionGroup) as raised:
            await Service(configure(ca_file), pooler.dsn).run()
    finally:
        await pooler.stop()
    (unfit,) = raised.value.exceptions
    assert (True, True) == (isinstance(unfit, ServerUnfitError), "not through transaction pooling" in str(unfit))


async def test_a_second_session_that_is_not_let_in(shop: Shop, role: str, dsn: str) -> None:
    """Though the first one was."""
    await shop.connection.execute(f"grant bisd_daemon to {role}; alter role {role} connection limit 1")
    ((level, says),) = (await found(as_role(dsn, role)))[Subject.SESSION]
    assert (FAULT, True) == (level, "a second session is not let in" in says and "SQLSTATE 53300" in says)


@pytest.mark.parametrize(("seconds", "says"), [(90.0, "90 s ahead of this host's"), (-3600.0, "3600 s behind this host's")])
def test_clocks_that_differ(seconds: float, says: str) -> None:
    """By more than a minute: receivers take five for the age of a signature."""
    assert (WARNING, True) == (session.skew(seconds).level, says in session.skew(seconds).says)
    assert [Level.OK] * 2 == [session.skew(other).level for other in (59.0, -59.0)]


ROLE = {"role": "bisd", "super": False, "creates_roles": False, "owner": False, "role_limit": -1, "database_limit": -1,
        "line": None, "free": 50}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "level", "says"),
    [
        ({"super": True}, WARNING, "bisd is a superuser"),
        ({"owner": True}, WARNING, "the owner of the schema"),
        ({"creates_roles": True}, WARNING, "one that makes roles"),
        ({"line": True}, WARNING, "not encrypted"),
        ({"role_limit": 2}, FAULT, "the role bisd has a limit of 2 connections"),
        ({"database_limit": 0}, FAULT, "the database has a limit of 0 connections"),
        ({"free": 2}, FAULT, "2 connections are left"),
    ],
)
def test_a_role_that_may_too_much_or_too_little(row: dict[str, Any], level: Level, says: str) -> None:
    """What is wrong with who we are, and with what room there is."""
    ((found_level, sentence),) = [(finding.level, finding.says) for finding in server.judge(ROLE | row, named=True)]
    assert (level, True) == (found_level, says in sentence)
    assert [Level.OK] == [finding.level for finding in server.judge(ROLE | {"line": False}, named=True)]


async def test_a_role_is_asked_what_it_may(shop: Shop, role: str, dsn: str) -> None:
    """Limits of the role and of the database as the server has them; a superuser that the configuration names is told."""
    await shop.connection.execute(f"grant bisd_daemon to {role}; alter role {role} connection limit 2 createrole")
    await shop.connection.execute(f"alter database {urlsplit(dsn).path[1:]} connection limit 2")
    named = replace(Config(), database=DatabaseConfig(dsn=dsn))
    await shop.connection.close()
    said = (await found(as_role(dsn, role), named))[Subject.ROLE]
    assert [True] * 3 == [
        words in says for words, (_, says) in zip(("makes roles", "role checked", "database"), said, strict=True)
    ]
    other = await asyncpg.connect(dsn)
    await other.execute(f"alter role {role} nocreaterole; alter database {urlsplit(dsn).path[1:]} connection limit -1")
    assert "postgres is a superuser" in (await found(dsn, named))[Subject.ROLE][0][1]
    shop.connection = other


@pytest.fixture(scope="module")
def harmed() -> Iterator[Server]:
    """A server of its own, set up as nobody should: and so that transactions can be prepared, and the queue is soon full."""
    server = Server()
    asyncio.run(_harm(server))
    server.restart("fast")
    yield server
    server.remove()


HARM = {"full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off", "track_counts": "off",
        "track_activities": "off", "log_statement": "all", "log_min_duration_statement": "0"}  # fmt: skip


async def _harm(server: Server) -> None:
    connection = await asyncpg.connect(server.dsn("postgres"))
    for name, value in (HARM | {"max_prepared_transactions": "2", "max_notify_queue_pages": "64"}).items():
        await connection.execute(f"alter system set {name} = '{value}'")
    await connection.close()


async def test_settings_that_do_harm(harmed: Server) -> None:
    """Each is named with the harm it does, and no other."""
    said = (await found(await harmed.create()))[Subject.SETTINGS]
    assert {**HARM, "fsync": "off"} == dict(re.findall(r"^(\w+) is (\w+):", "\n".join(says for _, says in said), re.MULTILINE))
    assert set(server._HARM) == {*HARM, "fsync"}


async def test_prepared_transactions_that_nobody_ends(harmed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """They outlive their session, and the server's restart."""
    dsn = await harmed.create()
    connection = await asyncpg.connect(dsn)
    await connection.execute("begin; select pg_current_xact_id(); prepare transaction 'half done'")
    monkeypatch.setattr(activity, "_OPEN", timedelta(0))
    said = (await found(dsn))[Subject.TRANSACTIONS]
    await connection.execute("rollback prepared 'half done'")
    await connection.close()
    assert [True] == ["'half done' of postgres has been prepared for 0 s" in says for _, says in said]


async def test_a_queue_of_notifications_that_fills(harmed: Server) -> None:
    """Because somebody listens within a transaction: how full it is, and whom to look for."""
    dsn = await harmed.create()
    listener, ringer = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await listener.execute("listen anything")
    await listener.execute("begin; select 1")
    await ringer.execute("select pg_notify('anything', n || repeat('x', 7000)) from generate_series(1, 20) n")
    said = (await found(dsn)).get(Subject.QUEUE, [])
    listener.terminate()
    await ringer.close()
    assert [(WARNING, True)] == [
        (level, re.match(r"the queue of notifications is \d+\.\d% full", says) is not None) for level, says in said
    ]
    assert [Level.OK, WARNING, FAULT] == [activity.usage(share).level for share in (0.004, 0.4, 0.6)]


async def test_keys_that_cannot_be_opened(shop: Shop, dsn: str, bisd: Run, tmp_path: Path) -> None:
    """Which accounts that holds; keys that are in plain beside a master key; and a master key that is none."""
    masters = []
    for name in ("first", "second"):
        masters.append(tmp_path / name)
        masters[-1].write_text(name[0].encode().hex() * 32)
        masters[-1].chmod(0o600)
    first, second = (replace(Config(), keys=KeysConfig(master_file=master)) for master in masters)
    assert [(WARNING, "1 API keys are not sealed under the master key: bisd keys seal")] == (await found(dsn, first))[
        Subject.KEYS
    ]
    bisd("keys", "seal", BISD_KEYS_MASTER_FILE=str(masters[0]))
    assert Subject.KEYS not in await found(dsn, first)
    ((level, says),) = (await found(dsn, second))[Subject.KEYS]
    assert (FAULT, True) == (level, "API keys of 1 accounts cannot be opened, their webhooks are held: 1." in says)
    masters[0].write_text("no key")
    ((level, says),) = (await found(dsn, first))[Subject.KEYS]
    assert (FAULT, True) == (level, "keys.master_file" in says)


async def test_urls_and_hosts(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, authority: trustme.CA) -> None:
    """URLs that are refused; hosts where nobody listens, or whose certificate is another's, each with the webhooks that go
    there; what can be reached is greeted, and asked for nothing."""
    stranger = Receiver(trustme.CA())
    await stranger.start()
    refused = await shop.subscribe("t", "https://10.0.0.1/")
    closed = [await shop.subscribe("t", f"https://127.0.0.1:1/{number}") for number in range(2)]
    untrusted = await shop.subscribe("t", stranger.url + "secret")
    await shop.subscribe("t", receiver.url)
    await shop.subscribe("t", "https://127.0.0.1:2/", enable=False)
    said = await found(dsn, configure(ca_file))
    await stranger.stop()
    assert [(WARNING, True)] == [(level, f"1 webhooks that are on: {refused};" in says) for level, says in said[Subject.EGRESS]]
    assert {
        (WARNING, f"https://127.0.0.1:1 cannot be reached: connect. Webhooks that go there: {closed[0]}, {closed[1]}"),
        (WARNING, f"{stranger.url.rstrip('/')} cannot be reached: tls_untrusted. Webhooks that go there: {untrusted}"),
    } == set(said[Subject.HOSTS])
    assert [] == receiver.requests + stranger.requests


async def test_a_resolver_that_does_not_answer(shop: Shop, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is our own fault: no webhook is named for it."""
    await shop.subscribe("t", "https://teas.example.com/")
    async with names() as servers:
        servers.down = True
        asks(servers, monkeypatch)
        ((level, says),) = (await found(dsn))[Subject.HOSTS]
    assert (FAULT, True) == (level, "it is us (resolver)" in says)


def test_what_became_of_hosts() -> None:
    """Late ones are said to be late; a refused address is a host that cannot be reached."""
    none = Timings(None, None, None, None, 1.0)
    answers = {"https://a": None, "https://b": NoResponse(Code.DNS, none), "https://c": Refusal(Code.REFUSED_ADDRESS)}
    ids = {f"https://{name}": list(range(8)) for name in "abcd"}
    said = judge_hosts(answers, {"https://d"}, ids)
    assert [WARNING, WARNING, UNSEEN] == [finding.level for finding in said]
    assert "https://b cannot be reached: dns. Webhooks that go there: 0, 1, 2, 3, 4 and 3 more" == said[0].says
    assert [Finding(Level.OK, Subject.HOSTS, "1 hosts were reached, of 4 that webhooks go to")] == judge_hosts(
        {"https://a": None}, set(), ids
    )
    assert FAULT == judge_hosts({"https://a": Fault(Code.NETWORK)}, set(), ids)[0].level


def test_what_is_doubtful_on_this_host(tmp_path: Path) -> None:
    """A configuration with a password in it, the URL's file, master keys that others may read, and whatever they may change;
    and what else the daemon doubts at its start. What cannot be read is said."""
    file, secret, master, ca = (tmp_path / name for name in ("shop.toml", "dsn", "master", "ca.pem"))
    secret.write_text("postgresql://bisd:hunter2@db.example.com/shop")
    master.write_text("ab" * 32)
    trustme.CA().cert_pem.write_to_path(str(ca))
    file.touch()
    for path in (file, secret, master, ca):
        path.chmod(0o644)
    plain = replace(Config(), database=DatabaseConfig(dsn="postgresql://bisd@db.example.com/shop"))
    assert [] == _doubts(plain, file)
    for url in ("postgresql://bisd:hunter2@db.example.com/shop", "postgresql://db.example.com/shop?user=bisd&password=hunter2"):
        assert ["database.dsn holds a password"] == _doubts(replace(Config(), database=DatabaseConfig(dsn=url)), file)
    secrets = replace(Config(), database=DatabaseConfig(dsn_file=secret), keys=KeysConfig(master))
    assert ["database.dsn_file names a secret", "keys.master_file names a secret"] == _doubts(secrets, None)
    gone = replace(secrets, keys=KeysConfig(master, [tmp_path / "gone"]))
    assert [True] == ["gone cannot be read" in doubt for doubt in _doubts(gone, None)]
    for path in (secret, master):
        path.chmod(0o640)
    ca.chmod(0o646)
    trusting = replace(secrets, egress=replace(Config().egress, ca_file=ca))
    assert [f"everybody on this host may change {ca}: chmod o-w {ca}"] == _doubts(trusting, None)


def test_units_that_others_may_change(tmp_path: Path) -> None:
    """Those of bisd, and what is dropped in beside them; nobody else's."""
    names = ("bisd.service", "bisd@.service", "bisd@shop.service.d/limits.conf", "other.service")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o646)
    said = [finding.says for finding in doctor.host.configuration(Config(), None, tmp_path) if "may change" in finding.says]
    assert {str(tmp_path / name) for name in names[:3]} == {one.split(" may change ")[1].split(":")[0] for one in said}


def _doubts(config: Config, file: Path | None) -> list[str]:
    found = [finding for finding in doctor.host.configuration(config, file) if finding.level is not Level.OK]
    return [finding.says.split(" in a file")[0] for finding in found]


async def test_the_command(shop: Shop, receiver: Receiver, ca_file: Path, bisd: Run) -> None:
    """Exit 0 where nothing is a fault, though there be warnings, else 1; a table for people, JSON for programs."""
    reach = {"BISD_EGRESS_ALLOW": '["127.0.0.0/8"]', "BISD_EGRESS_PORTS": '["1-65535"]', "BISD_EGRESS_CA_FILE": str(ca_file)}
    await shop.subscribe("notification/create", receiver.url)
    ran = await asyncio.to_thread(bisd, "check", "--json", **reach)
    levels = {row["subject"]: row["level"] for row in json.loads(ran.stdout)}
    assert {"settings", "keys", "role"} == {subject for subject, level in levels.items() if level == "warning"}
    assert (0, {"ok", "warning"}, {subject.value for subject in Subject}) == (ran.returncode, set(levels.values()), set(levels))
    await shop.connection.execute("alter table bisd.event disable trigger fan_out")
    ran = await asyncio.to_thread(bisd, "check", **reach)
    assert (1, True) == (ran.returncode, "fan_out on bisd.event" in ran.stdout)


async def test_a_shell_with_few_files(dsn: str, tmp_path: Path) -> None:
    """Fewer than may be in flight: said, with both numbers."""
    command = ["prlimit", "--nofile=512:512", sys.executable, "-m", "bisd", "check", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, env={"BISD_DATABASE_DSN": dsn, "PATH": "/usr/bin:/bin"})
    said = [row["says"] for row in json.loads(ran.stdout) if row["subject"] == "limits"]
    assert ["512 files may be open here, [delivery] max_in_flight asks for 1400: raise LimitNOFILE, or lower it"] == said


def test_how_long_and_how_many_are_written() -> None:
    """In units of which there are two at least; as many names as one reads."""
    ages = {0: "0 s", 119: "119 s", 120: "2 min", 7199: "119 min", 7200: "2 h", 172799: "47 h", 172800: "2 d"}
    assert ages == {seconds: age(seconds) for seconds in ages}
    assert ["a, b", "a and 1 more"] == [some(["a", "b"]), some(["a", "b"], 1)]
