"""The schema: migrations, constraints, functions that refuse with a reason, roles, partitions."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from bisd import config, db, migrate
from bisd.errors import SchemaNewerError, SchemaOlderError
from tests.support.cluster import PROGRAMS
from tests.support.daemon import configure, running
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import SEED_BODY, SEED_ROW, SEED_SENT, Shop, eventually

Connect = Callable[[], Awaitable[db.Connection]]


async def test_the_server_is_the_one_that_was_chosen(dsn: str, connect: Connect) -> None:
    """The tests run against the PostgreSQL whose programs BISD_TEST_POSTGRES names, or the embedded one."""
    ran = subprocess.run([PROGRAMS / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True)
    shown = await (await connect()).fetchval("show server_version")
    assert ran.stdout.strip().removeprefix("postgres (PostgreSQL) ") == shown


async def test_twenty_migrate_at_once(server: Server) -> None:
    """Twenty that start together: one applies each migration, all find the schema up to date afterwards."""
    dsn = await server.create(migrated=False)

    async def start() -> list[int]:
        connection = await db.connect(dsn)
        try:
            applied = await migrate.migrate(connection)
            await migrate.require_current(connection)
            return [migration.number for migration in applied]
        finally:
            await connection.close()

    applied = await asyncio.gather(*(start() for _ in range(20)))
    assert sorted(number for numbers in applied for number in numbers) == [migration.number for migration in migrate.known()]
    assert sorted(map(len, applied))[:-1] == [0] * 19


async def test_a_newer_schema_is_refused(dsn: str, connect: Connect) -> None:
    """A database that a later bisd has migrated is left alone, with a sentence that says what to do."""
    connection = await connect()
    await connection.execute("insert into bisd.migration (number, name) values (9000, 'later')")
    for attempt in (migrate.migrate, migrate.require_current):
        with pytest.raises(SchemaNewerError, match=r"at version 9000, this bisd knows up to .* install the bisd"):
            await attempt(connection)


async def test_an_older_schema_is_refused(server: Server) -> None:
    """The daemon does not start on a database that is not migrated; it says which command does it."""
    connection = await asyncpg.connect(await server.create(migrated=False))
    with pytest.raises(SchemaOlderError, match="run `bisd migrate` first"):
        await migrate.require_current(connection)
    await connection.close()


async def test_a_migration_does_not_make_others_queue(dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody holds what a migration needs, it gives up within seconds, so that nobody waits behind it for longer; once
    the other has ended, it is applied."""
    known = [*migrate.known(), migrate.Migration(9000, "wider", "alter table bisd.plan add column wider integer")]
    monkeypatch.setattr(migrate, "known", lambda: known)
    holder, migrating = await connect(), await connect()
    async with holder.transaction():
        await holder.execute("select from bisd.plan")
        async with asyncio.timeout(20):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await migrate.migrate(migrating)
    assert [known[-1]] == await migrate.migrate(migrating)


async def test_a_failed_migration_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each migration is one transaction: the one that fails leaves no trace, those before it stay."""
    connection = await asyncpg.connect(await server.create(migrated=False))
    known = [*migrate.known(), migrate.Migration(9000, "broken", "create table bisd.half (); select 1 / 0;")]
    monkeypatch.setattr(migrate, "known", lambda: known)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate.migrate(connection)
    assert await migrate.version(connection) == known[-2].number
    assert await connection.fetchval("select to_regclass('bisd.half')") is None
    await connection.close()


async def test_the_documented_body(shop: Shop) -> None:
    """The seed's example, key for key in its order, nulls kept, compact."""
    await shop.connection.execute(SEED_ROW, shop.account_id)
    await shop.connection.execute(SEED_SENT)
    body = await shop.connection.fetchval("select body::text from bisd.event where topic = 'notification/sent'")
    assert body == SEED_BODY.decode()


async def test_the_body_is_what_javascript_writes(shop: Shop) -> None:
    """JSON.stringify(JSON.parse(body)) gives the same bytes, whatever the customer is called: receivers re-serialise."""
    awkward = "".join(chr(code) for code in range(1, 128)) + "é\u2028\u2029\ufeff😀</script>\x7f\u0080"
    await shop.connection.execute(
        "insert into bisd.notification (account_id, customer_email, product_title, sku, product_id) "
        "values ($1, $2, $2, '', 9007199254740991)",
        shop.account_id,
        awkward,
    )
    body = await shop.connection.fetchval("select body::text from bisd.event")
    assert json.loads(body)["customer"]["email"] == awkward
    node = shutil.which("node")
    if node is None:
        assert body == json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).replace("\\u007f", "\x7f")
    else:
        script = "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0, 'utf8'))))"
        written = subprocess.run([node, "-e", script], input=body.encode(), capture_output=True, check=True)
        assert written.stdout == body.encode()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("select bisd.create_account('', 'medium')", "an account needs a name"),
        ("select bisd.create_account('x', 'gold')", 'there is no plan "gold"'),
        ("select bisd.create_webhook(99, 'a', 'https://example.com/')", "there is no account 99"),
        ("select bisd.create_webhook(1, 'a b', 'https://example.com/')", '"a b" cannot be a topic'),
        ("select bisd.create_webhook(1, E'a\\nb', 'https://example.com/')", "cannot be a topic"),
        ("select bisd.create_webhook(1, 'a', 'ftp://example.com/')", "cannot be a webhook's URL"),
        ("select bisd.create_webhook(1, 'a', null)", "cannot be a webhook's URL"),
        ("select bisd.create_webhook(1, 'a', 'https://example.com/' || repeat('x', 3000))", "cannot be a webhook's URL"),
        ("select bisd.enable_webhook(99)", "there is no webhook 99"),
        ("select bisd.disable_webhook(99)", "there is no webhook 99"),
        ("select bisd.enable_webhook(1)", "there is no webhook 1"),
        ("select bisd.rotate_key(99, '1 day')", "there is no account 99"),
        ("select bisd.rotate_key(1, null)", "two keys cannot overlap for no known time"),
        ("select bisd.rotate_key(1, '-1 second')", "two keys cannot overlap for"),
        ("select bisd.rotate_key(1, '91 days')", "two keys cannot overlap for 91 days"),
        ("select bisd.set_plan(99, 'small')", "there is no account 99"),
        ("select bisd.set_plan(1, 'gold')", 'there is no plan "gold"'),
        ("select bisd.set_plan(1, null)", "there is no plan"),
        ("select bisd.set_webhook(99, '{}')", "there is no webhook 99"),
        ("select bisd.remove_webhook(99)", "there is no webhook 99"),
        ("select bisd.send_test(99)", "there is no webhook 99"),
        ("select bisd.emit(99, 'a', '{}')", "there is no account 99"),
        ("select bisd.emit(1, '', '{}')", "cannot be a topic"),
        ("select bisd.emit(1, null, '{}')", "cannot be a topic"),
        ("select bisd.emit(1, 'a', null)", "cannot be NULL"),
        ("select bisd.emit(1, 'a', to_json(repeat('x', 1048576)))", "has 1048578 bytes, more than the 1048576"),
    ],
)
async def test_functions_refuse_with_a_reason(call: str, reason: str, shop: Shop) -> None:
    """What cannot be done is refused with SQLSTATE BISD0, a sentence, and a hint."""
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await shop.connection.execute(call)
    assert refusal.value.sqlstate == "BISD0"
    assert reason in str(refusal.value)
    assert refusal.value.hint


async def test_the_largest_body_goes_through(shop: Shop) -> None:
    """SQL's limit is the daemon's default, and a body of exactly that size is taken."""
    limit = await shop.connection.fetchval("select bisd.max_body_bytes()")
    assert limit == config.DeliveryConfig().max_body_bytes
    await shop.connection.execute("select bisd.emit(1, 'a', to_json(repeat('x', $1 - 2)))", limit)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into bisd.account (name, plan, api_key) values ('x', 'medium', '')",
        "insert into bisd.account (name, plan, api_key) values ('x', 'gold', repeat('k', 32))",
        "update bisd.account set previous_api_key = repeat('k', 32)",
        "insert into bisd.webhook (account_id, topic, url) values (1, 'a', 'javascript:alert(1)')",
        "insert into bisd.webhook (account_id, topic, url) values (1, 'a', E'https://example.com/\\r\\nHost: evil')",
        "insert into bisd.webhook (account_id, topic, url) values (1, '', 'https://example.com/')",
        "insert into bisd.webhook (account_id, topic, url, max_in_flight) values (1, 'a', 'https://example.com/', 0)",
        "insert into bisd.webhook (account_id, topic, url, rate) values (1, 'a', 'https://example.com/', 'nan')",
        "insert into bisd.webhook (account_id, topic, url, filter) values (1, 'a', 'https://example.com/', '$.a')",
        """insert into bisd.webhook (account_id, topic, url, headers) values (1, 'a', 'https://a/', '{"Host": "x"}')""",
        "insert into bisd.webhook (account_id, topic, url, enabled, removed_at) values (1, 'a', 'https://a/', true, now())",
        "insert into bisd.webhook (account_id, topic, url, failures) values (1, 'a', 'https://example.com/', 1)",
        "insert into bisd.webhook (account_id, topic, url, next_probe_at) values (1, 'a', 'https://example.com/', now())",
        "insert into bisd.event (account_id, topic, body, test) values (1, 'a', '{}', true)",
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict) "
        "values (1, 1, now(), now(), 'retry')",
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, due_at) values (1, 1, now(), 2, 'infinity')",
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, attempts) values (1, 1, now(), 2, -1)",
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, attempts) values (1, 1, now(), 2, 9999999)",
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes) values (1, 1, '20000-01-01', 2)",
        "insert into bisd.event (account_id, topic, body, created_at) values (1, 'a', '{}', '20000-01-01')",
        "update bisd.account set previous_api_key = repeat('k', 32), previous_until = 'infinity'",
        "insert into bisd.notification (account_id, created_at) values (1, 'infinity')",
    ],
)
async def test_nonsense_is_refused_by_constraint(statement: str, shop: Shop) -> None:
    """Rows that no code of ours writes are refused, whoever writes them."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await shop.connection.execute(statement)


# What each role must be able to do, and what it must not.
_RIGHTS: dict[str, tuple[list[str], list[str]]] = {
    "bisd_app": (
        ["insert into bisd.notification (account_id) values (1)", "update bisd.notification set sent_at = now()",
         "select * from bisd.notification", "select bisd.emit(1, 'a', '{}')", "select body from bisd.webhook_event",
         "listen bisd_webhook"],
        ["select api_key from bisd.account", "select * from bisd.event", "select * from bisd.delivery_status",
         "select * from bisd.webhook_health", "select url from bisd.webhook", "select * from bisd.attempt",
         "delete from bisd.delivery", "delete from bisd.notification", "truncate bisd.notification",
         "insert into bisd.event (account_id, topic, body) values (1, 'a', '{}')", "update bisd.webhook set url = 'https://a/'",
         "insert into bisd.webhook (account_id, topic, url) values (1, 'a', 'https://example.com/')",
         "update bisd.plan set webhooks = true", "select bisd.create_account('x', 'medium')", "select bisd.rotate_key(1, '0')",
         "select bisd.set_plan(1, 'small')", "select bisd.create_webhook(1, 'a', 'https://example.com/')",
         "select bisd.set_webhook(1, '{}')", "select bisd.enable_webhook(1)", "select bisd.disable_webhook(1)",
         "select bisd.remove_webhook(1)", "select bisd.send_test(1)", "select bisd.retry(1, 1)", "select bisd.cancel(1, 1)",
         "select bisd.replay(1, now() - interval '1 h', now(), false)", "select bisd.cancel_replay(1)",
         "select bisd.report(1, now(), 1, 0, now(), null, 0, 'gone', '')", "select bisd.drop_partitions('event', now())",
         "select bisd.require_webhook(1)", "select bisd.forget_webhooks(now())", "create table bisd.mine ()"],
    ),
    "bisd_reader": (
        ["select * from bisd.delivery_status", "select * from bisd.webhook_health", "select id, url, note from bisd.webhook",
         "select status from bisd.attempt", "select id, topic from bisd.event", "select * from bisd.delivery",
         "select id, name, plan from bisd.account", "select * from bisd.plan"],
        ["select api_key from bisd.account", "select previous_api_key from bisd.account", "select * from bisd.account",
         "select headers from bisd.webhook", "select * from bisd.webhook", "select body from bisd.event",
         "select * from bisd.webhook_event", "select answer from bisd.attempt", "select * from bisd.notification",
         "select bisd.emit(1, 'a', '{}')", "insert into bisd.notification (account_id) values (1)",
         "update bisd.delivery set attempts = 0", "delete from bisd.delivery", "update bisd.webhook set enabled = true",
         "select bisd.create_account('x', 'large')", "select bisd.rotate_key(1, '0')", "select bisd.set_plan(1, 'small')",
         "select bisd.enable_webhook(1)", "select bisd.send_test(1)", "select bisd.retry(1, 1)", "select bisd.cancel(1, 1)",
         "select bisd.require_webhook(1)", "select bisd.restamp()", "create table bisd.mine ()"],
    ),
    "bisd_daemon": (
        ["select api_key from bisd.account", "update bisd.delivery set attempts = 1", "delete from bisd.delivery",
         "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict) "
         "values (1, 1, now(), now(), 'expired')", "select bisd.make_partitions(1)", "select bisd.restamp()",
         "select bisd.report(1, now(), 1, 0, now(), null, 0, null, '')", "select bisd.forget_webhooks('2000-01-01')",
         "select bisd.drop_partitions('event', '2000-01-01')", "select * from bisd.webhook_health", "listen bisd"],
        ["update bisd.account set plan = 'large'", "delete from bisd.account", "update bisd.webhook set enabled = true",
         "insert into bisd.webhook (account_id, topic, url) values (1, 'a', 'https://a/')", "delete from bisd.webhook",
         "update bisd.attempt set status = 200", "delete from bisd.attempt", "truncate bisd.attempt", "delete from bisd.event",
         "insert into bisd.event (account_id, topic, body) values (1, 'a', '{}')", "update bisd.event set topic = 'b'",
         "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes) values (1, 1, now(), 2)",
         "insert into bisd.notification (account_id) values (1)", "update bisd.plan set webhooks = true",
         "insert into bisd.migration (number, name) values (9000, 'x')", "create table bisd.mine ()",
         "drop table bisd.event_default", "select bisd.create_account('x', 'medium')", "select bisd.rotate_key(1, '0')",
         "select bisd.emit(1, 'a', '{}')", "select bisd.enable_webhook(1)", "select bisd.remove_webhook(1)",
         "select * from bisd.token", "select bisd.create_token(1, 'x', null)", "select bisd.revoke_token(1)",
         "select * from bisd.answered", "insert into bisd.answered values ('', '', '')"],
    ),
    "bisd_admin": (
        ["select * from bisd.account", "select * from bisd.webhook_health", "select body from bisd.event",
         "select id, account_id, last_used_at from bisd.token", "select bisd.create_account('x', 'medium')",
         "select bisd.rotate_key(1, '0')", "select bisd.set_plan(1, 'large')",
         "select bisd.create_webhook(1, 'a', 'https://a.b/')",
         "select bisd.set_webhook(1, '{}')", "select bisd.enable_webhook(1)", "select bisd.disable_webhook(1)",
         "select bisd.send_test(1)", "select bisd.emit(1, 'a', '{}')", "select bisd.create_token(1, 'x', null)",
         "select bisd.revoke_token(1)", "select bisd.replay(1, now() - interval '1 h', now(), false)",
         "select bisd.cancel_replay(1)", "select bisd.retry(1, 1)", "select bisd.cancel(1, 1)",
         "select bisd.remove_webhook(1)"],
        ["select sha256 from bisd.token", "select * from bisd.token", "update bisd.token set revoked_at = null",
         "insert into bisd.token (account_id, sha256) values (1, sha256(''))", "select bisd.use_token(sha256(''))",
         "update bisd.answered set sealed = ''", "delete from bisd.answered", "select bisd.forget_answers(now())",
         "update bisd.account set plan = 'large'", "delete from bisd.account", "update bisd.webhook set enabled = true",
         "insert into bisd.webhook (account_id, topic, url) values (1, 'a', 'https://a/')", "delete from bisd.webhook",
         "update bisd.delivery set attempts = 1", "delete from bisd.delivery",
         "insert into bisd.event (account_id, topic, body) values (1, 'a', '{}')", "update bisd.event set topic = 'b'",
         "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict) "
         "values (1, 1, now(), now(), 'expired')", "insert into bisd.notification (account_id) values (1)",
         "select * from bisd.notification", "update bisd.plan set webhooks = true", "select bisd.make_partitions(1)",
         "select bisd.drop_partitions('event', '2000-01-01')", "select bisd.forget_webhooks('2000-01-01')",
         "select bisd.report(1, now(), 1, 0, now(), null, 0, null, '')", "create table bisd.mine ()"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("role", _RIGHTS)
async def test_roles_may_do_what_they_must(role: str, shop: Shop) -> None:
    """Each role can do its work, and nothing else."""
    await shop.subscribe("notification/create", "https://example.com/")
    allowed, forbidden = _RIGHTS[role]
    assert len(forbidden) >= 15
    await shop.connection.execute(f"set role {role}")
    for statement in allowed:
        await shop.connection.execute(statement)
    for statement in forbidden:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await shop.connection.execute(statement)
            pytest.fail(f"{role} may: {statement}")


async def test_nobody_else_may_call_anything(shop: Shop) -> None:
    """Whoever has none of the four roles can call no function that changes or shows something."""
    functions = await shop.connection.fetch(
        "select p.oid::regprocedure::text from pg_catalog.pg_proc p "
        "where p.pronamespace = 'bisd'::regnamespace and exists (select from aclexplode(coalesce(p.proacl, "
        "acldefault('f', p.proowner))) a where a.grantee = 0) order by 1"
    )
    assert [row[0] for row in functions] == []


async def test_the_daemon_s_rights_are_enough(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """With the role bisd_daemon alone it delivers, tests, says how a webhook is doing, and deactivates it."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500, 200, 200, 410]
    async with running(configure(ca_file), f"{dsn}&role=bisd_daemon"):
        await shop.notify()
        await receiver.received(2)
        await shop.connection.execute("select bisd.send_test($1)", webhook_id)
        await receiver.received(3)
        await shop.notify()
        await eventually(lambda: _is_off(shop))
    assert [row[0] for row in await shop.statuses()] == ["delivered", "delivered", "held"]


async def test_a_daemon_goes_on_when_the_schema_moves_on(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs, a later release's migration adds to every table; it goes on with what comes, retries and settles. Another
    daemon of its release does not start any more."""
    tables = ("account", "attempt", "delivery", "event", "notification", "webhook")
    wider = "; ".join(f"alter table bisd.{table} add column later integer not null default 7" for table in tables)
    known = migrate.known()
    await shop.subscribe("notification/create", receiver.url)
    async with running(configure(ca_file), dsn):
        await shop.notify()
        await receiver.received(1)
        with monkeypatch.context() as later:
            later.setattr(migrate, "known", lambda: [*known, migrate.Migration(9000, "wider", wider)])
            await migrate.migrate(await connect())
        receiver.statuses = [500, 200]
        await shop.notify()
        await receiver.received(3)
        await eventually(lambda: _is_settled(shop))
        with pytest.raises(SchemaNewerError):
            await migrate.require_current(await connect())
    assert [("delivered", 1, 200, None), ("delivered", 2, 200, None)] == await shop.statuses()


async def _is_settled(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _is_off(shop: Shop) -> bool:
    return not await shop.connection.fetchval("select enabled from bisd.webhook")


async def test_what_happens_while_it_looks_is_not_restamped(shop: Shop, connect: Connect) -> None:
    """Rows of another cluster's future are stamped anew, those of a transaction that commits meanwhile are not."""
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify()
    stamping, writing = await connect(), await connect()
    async with writing.transaction():
        await writing.execute("lock table bisd.delivery in share mode")
        restamped = asyncio.ensure_future(stamping.fetchval("select bisd.restamp()"))
        await eventually(lambda: _somebody_waits(shop))
        await writing.execute("insert into bisd.notification (account_id) values ($1)", shop.account_id)
    assert 0 == await restamped
    await shop.connection.execute("update bisd.delivery set txid = '9000000000000' where event_id = 1")
    assert 1 == await stamping.fetchval("select bisd.restamp()")
    assert 0 == await stamping.fetchval("select bisd.restamp()")


async def _somebody_waits(shop: Shop) -> bool:
    return bool(
        await shop.connection.fetchval(
            "select count(*) from pg_locks where relation = 'bisd.delivery'::regclass and not granted"
        )
    )


async def test_partitions_are_made_ahead_and_dropped_whole(shop: Shop) -> None:
    """Today's and the next seven days' are there; those past retention go, except while something of them is owed."""
    connection = shop.connection
    assert await connection.fetchval("select bisd.make_partitions(7)") == 0
    assert await connection.fetchval("select bisd.make_partitions(9)") == 4
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify()
    assert await connection.fetchval("select tableoid::regclass::text !~ 'default' from bisd.event")
    future = "now() + interval '40 days'"
    dropped = [row[0] for row in await connection.fetch(f"select bisd.drop_partitions('event', {future})")]
    assert len(dropped) == 9
    await connection.execute("delete from bisd.delivery")
    assert len(await connection.fetch(f"select bisd.drop_partitions('event', {future})")) == 1
    assert len(await connection.fetch(f"select bisd.drop_partitions('attempt', {future})")) == 10
    await shop.notify()
    assert await connection.fetchval("select tableoid::regclass::text from bisd.event") == "bisd.event_default"


async def test_the_fence(shop: Shop, ca_file: Path) -> None:
    """A verdict on a delivery that another owner has tried since changes nothing, and is named; written twice, a batch is
    in the database once."""
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify(2)
    settle = db.query("settle")
    rows = await shop.connection.fetch("select event_id, event_created_at, due_at, now() as at from bisd.delivery order by 1")
    nothing: list[object] = [None, None]
    columns: list[list[object]] = [
        [1, 1], [row["event_id"] for row in rows], [row["event_created_at"] for row in rows], [0, 0], [None, None],
        ["delivered"] * 2, [1, 1], [row["at"] for row in rows], [200, 200], *[nothing] * 7,
        [False, False], nothing, [False, False], [row["due_at"] for row in rows],
    ]  # fmt: skip
    await shop.connection.execute("update bisd.delivery set attempts = 1 where event_id = $1", rows[1]["event_id"])
    fenced = await shop.connection.fetch(settle, *columns)
    assert [tuple(row) for row in fenced] == [(1, rows[1]["event_id"])]
    assert await shop.owed() == 1
    await shop.connection.fetch(settle, *columns)
    assert await shop.connection.fetchval("select count(*) from bisd.attempt") == 2
    assert configure(ca_file).delivery.timeout > timedelta(0)


async def test_the_default_partition_is_healed(shop: Shop) -> None:
    """What came for a day without a partition is kept by the default one, and moves when the day gets its own."""
    today = await shop.connection.fetchval("select to_char(now() at time zone 'UTC', 'YYYYMMDD')")
    await shop.connection.execute(f"drop table bisd.event_{today}")
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify(3)
    assert await shop.connection.fetchval("select count(*) from bisd.event_default") == 3
    assert await shop.connection.fetchval("select bisd.make_partitions(7)") == 1
    assert await shop.connection.fetchval("select count(*) from bisd.event_default") == 0
    assert await shop.connection.fetchval(f"select count(*) from bisd.event_{today}") == 3


@pytest.mark.parametrize("first", [1, 10_000])
async def test_a_session_s_first_statement_does_not_spoil_its_plans(first: int, shop: Shop) -> None:
    """One row and ten thousand, in either order, each take the time they must: the trigger's plans fit both."""
    await shop.subscribe("notification/sent", "https://example.com/")
    await shop.connection.execute(
        "insert into bisd.webhook (account_id, topic, url, enabled) "
        "select 1, 'other/' || i, 'https://example.com/', true from generate_series(1, 20000) i"
    )
    await shop.notify(10_001)
    limit = {1: "id = 10001", 10_000: "id <= 10000"}
    for number in (first, 10_001 - first):
        async with asyncio.timeout({1: 0.2, 10_000: 5}[number]):
            await shop.connection.execute(f"update bisd.notification set sent_at = now() where {limit[number]}")
    async with asyncio.timeout(0.5):
        for _ in range(10):
            await shop.connection.execute("insert into bisd.notification (account_id) values (1)")
    assert await shop.owed() == 10_001


async def test_one_rings_in_five_milliseconds(shop: Shop, connect: Connect) -> None:
    """However many transactions there are, one after the other or several at once; and one that rang is heard."""
    await shop.subscribe("notification/create", "https://example.com/")
    listener, bells = await connect(), 0

    def hear(*_: object) -> None:
        nonlocal bells
        bells += 1

    async def insert() -> None:
        session = await connect()
        for _ in range(200):
            await session.execute("insert into bisd.notification (account_id) values (1)")

    await listener.add_listener("bisd", hear)
    began = time.monotonic()
    await asyncio.gather(*(insert() for _ in range(4)))
    slots = (time.monotonic() - began) / 0.005
    await listener.fetchval("select 1")
    # Two that look at the mark in the same moment both ring.
    assert 1 <= bells <= 2 * slots + 2
    assert 800 == await shop.owed()


async def test_a_long_transaction_rings_once_and_silences_nobody(shop: Shop) -> None:
    """A transaction that inserts for a while leaves one mark at the bell, not one for every moment of its life; after a
    savepoint is taken back it rings again, and the next transaction rings anew."""
    await shop.subscribe("notification/create", "https://example.com/")
    mark, rung = "select last_value from bisd.bell", "select coalesce(current_setting('bisd.rung', true), '')"
    marks = []
    for _ in range(2):
        async with shop.connection.transaction():
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with shop.connection.transaction():
                    await shop.notify()
                    assert "yes" == await shop.connection.fetchval(rung)
                    await shop.connection.execute("select 1 / 0")
            assert "" == await shop.connection.fetchval(rung)
            await shop.notify()
            marks.append(await shop.connection.fetchval(mark))
            for _ in range(50):
                await shop.notify()
                await shop.connection.execute("select pg_sleep(0.001)")
            assert ("yes", marks[-1]) == (await shop.connection.fetchval(rung), await shop.connection.fetchval(mark))
    assert marks[0] < marks[1]


async def test_attempts_stay_known_when_a_delivery_expires(shop: Shop) -> None:
    """A delivery that was tried and then settled without a POST still tells how often, and what was answered last."""
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify()
    await shop.connection.execute("delete from bisd.delivery")
    await shop.connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, due_at) "
        "values (1, 1, now(), now(), 1, 'retry', 500, now()), (1, 1, now() + interval '1 s', now(), 2, 'retry', 503, now()), "
        "(1, 1, now() + interval '2 s', now(), null, 'expired', null, null)"
    )
    assert await shop.statuses() == [("expired", 2, 503, None)]


_SHADOWS = """
    create schema shadow;
    do $$
    declare
        one record;
    begin
        for one in
            select p.proname, p.prorettype, oidvectortypes(p.proargtypes) as arguments
            from pg_proc p
            where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.provariadic = 0
              and not p.proretset and p.prorettype not in (select oid from pg_type where typtype = 'p')
              and not exists (select from unnest(p.proargtypes) a join pg_type t on t.oid = a where t.typtype = 'p')
        loop
            execute format('create function shadow.%I(%s) returns %s language plpgsql as '
                           '$f$ begin raise exception ''shadow''; end $f$',
                           one.proname, one.arguments, one.prorettype::regtype);
        end loop;
        for one in
            select o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r, o.oprcode
            from pg_operator o join pg_proc p on p.oid = o.oprcode
            where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprkind = 'b'
              and to_regprocedure(format('shadow.%I(%s)', p.proname, oidvectortypes(p.proargtypes))) is not null
        loop
            execute format('create operator shadow.%s (leftarg = %s, rightarg = %s, function = shadow.%I)',
                           one.oprname, one.l, one.r, (select proname from pg_proc where oid = one.oprcode));
        end loop;
    end $$;
    grant usage on schema shadow to public;
"""


async def test_the_application_s_search_path_leads_nowhere(shop: Shop) -> None:
    """Whatever schema an application puts before PostgreSQL's own, nothing in it is called with the rights of bisd's owner: not
    one function and not one operator, for one row or a thousand."""
    await shop.subscribe("notification/create", "https://example.com/")
    filtered = await shop.subscribe("notification/sent", "https://example.com/")
    settings = json.dumps({"filter": "$.product.product_id == 42"})
    await shop.connection.execute("select bisd.set_webhook($1, $2)", filtered, settings)
    await shop.connection.execute(_SHADOWS)
    await shop.connection.execute("set role bisd_app; set search_path = shadow, pg_catalog")
    with pytest.raises(asyncpg.RaiseError, match="shadow"):
        await shop.connection.execute("select 1 = 2 and length('a') = 1")
    await shop.connection.execute("insert into bisd.notification (account_id, product_id) values (1, 42), (1, 43)")
    await shop.connection.execute("update bisd.notification set sent_at = pg_catalog.now()")
    await shop.connection.execute(
        "insert into bisd.notification (account_id, sent_at) "
        "select 1, pg_catalog.now() from pg_catalog.generate_series(1, 1000)"
    )
    await shop.connection.execute("select bisd.emit(1, 'notification/create', '{}')")
    await shop.connection.execute("reset role; reset search_path")
    assert await shop.connection.fetchval("select count(*) from bisd.event") == 2 + 2 + 2 * 1000 + 1
    assert await shop.owed() == 2 + 1 + 1000 + 1


async def test_sent_happens_once(shop: Shop) -> None:
    """notification/sent is for the first time that sent_at is set, with the row or later, whatever becomes of it."""
    await shop.connection.execute(
        "insert into bisd.notification (account_id, sent_at) values (1, now()), (1, now()), (1, null)"
    )
    for change in ("sku = 'x'", "sent_at = null", "sku = 'y'", "sent_at = now()", "sent_at = now() + interval '1 h'"):
        await shop.connection.execute(f"update bisd.notification set {change} where id <> 2")
    for change in ("null", "now()"):
        await shop.connection.execute(f"update bisd.notification set sent_at = {change} where id = 2")
    rows = await shop.connection.fetch(
        "select (body ->> 'notification_id')::integer, count(*) from bisd.event "
        "where topic = 'notification/sent' group by 1 order by 1"
    )
    assert [tuple(row) for row in rows] == [(1, 1), (2, 1), (3, 1)]
