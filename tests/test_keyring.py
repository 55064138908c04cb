"""API keys at rest: sealed they open for their own account and for nobody else, and sealing loses none, whatever happens."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisd import db, insight
from bisd.config import KeysConfig
from bisd.errors import ConfigurationError, KeyUnreadableError
from bisd.keyring import KeyCount, Keyring
from bisd.sealing import Sealing, seal_accounts
from tests.support.shop import eventually

KEY = "bis_" + "5" * 64
PREFIX = len("sealed:1:")
MASTERS = [bytes([number]) * 32 for number in (1, 2, 3)]
Connect = Callable[[], Coroutine[Any, Any, db.Connection]]
Run = Callable[..., subprocess.CompletedProcess[str]]
# SQL's own keys, and whatever somebody brought.
KEYS = st.one_of(st.from_regex(r"bis_[0-9a-f]{64}", fullmatch=True), st.text(), st.from_regex(r"sealed:[0-9]{0,2}:?.*"))
ACCOUNTS = st.integers(1, 2**63 - 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of three master keys."""
    directory = tmp_path_factory.mktemp("masters")
    for number, master in enumerate(MASTERS):
        (directory / str(number)).write_bytes(base64.b64encode(master) + b"\n")
    return [directory / str(number) for number in range(len(MASTERS))]


@pytest.fixture(scope="module")
def ring(files: list[Path]) -> Keyring:
    """The first master key alone."""
    return Keyring(KeysConfig(master_file=files[0]))


@pytest.fixture(scope="module")
def renewed(files: list[Path]) -> Keyring:
    """The second master key, the first one retired."""
    return Keyring(KeysConfig(master_file=files[1], retired_files=[files[0]]))


@pytest.fixture(scope="module")
def other(files: list[Path]) -> Keyring:
    """The third master key, alone."""
    return Keyring(KeysConfig(master_file=files[2]))


@pytest.fixture
def command(dsn: str, tmp_path: Path) -> Run:
    """Runs `bisd ...` on this test's database."""
    file = tmp_path / "shop.toml"
    file.write_text(f'[database]\ndsn = "{dsn}"\n')

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bisd", *arguments],
            capture_output=True, text=True, timeout=60, env=os.environ | {"BISD_CONFIG": str(file)} | environment,
        )  # fmt: skip

    return run


def unreadable(ring: Keyring, account_id: int, text: str) -> str:
    """The fault that opening it raises, which shows no other exception behind it."""
    with pytest.raises(KeyUnreadableError) as raised:
        ring.open(account_id, text)
    assert account_id == raised.value.data["account_id"]
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    return str(raised.value)


def open_or_none(ring: Keyring, account_id: int, text: str) -> str | None:
    try:
        return ring.open(account_id, text)
    except KeyUnreadableError:
        return None


async def create(connection: db.Connection, number: int) -> dict[int, str]:
    """So many accounts, as an application makes them: id and key."""
    rows = await connection.fetch(
        "select a.* from generate_series(1, $1::int) n, bisd.create_account('Shop ' || n, 'medium') a", number
    )
    return {row["id"]: row["api_key"] for row in rows}


async def rotate(connection: db.Connection, account_id: int, key: str) -> None:
    """What a rotation does to the row."""
    await connection.execute(
        "update bisd.account set previous_api_key = api_key, previous_until = now() + '1 day', api_key = $2 where id = $1",
        account_id,
        key,
    )


async def stored(connection: db.Connection, column: str = "api_key") -> dict[int, str]:
    rows = await connection.fetch(f"select id, {column} as key from bisd.account where {column} is not null")
    return {row["id"]: row["key"] for row in rows}


async def opened(connection: db.Connection, ring: Keyring, column: str = "api_key") -> dict[int, str]:
    return {id: ring.open(id, text) for id, text in (await stored(connection, column)).items()}


async def sealed(connection: db.Connection, ring: Keyring) -> int:
    """How many keys are sealed under the current master key."""
    return (await insight.keys(connection)).get(ring.require_master(), 0)


async def waits(connection: db.Connection) -> bool:
    """Whether somebody waits for a row of ours."""
    return bool(await connection.fetchval("select exists (select from pg_locks where not granted and locktype <> 'relation')"))


@given(account_id=ACCOUNTS, key=KEYS)
def test_what_is_sealed_opens(account_id: int, key: str, ring: Keyring) -> None:
    """Any text at all comes back as it was, is nowhere to be seen meanwhile, and is sealed differently every time."""
    text = ring.seal(account_id, key)
    assert key == ring.open(account_id, text)
    assert ring.is_current(text)
    assert text != ring.seal(account_id, key)
    assert len(key) < 8 or key not in text[PREFIX:]


@given(key=st.text(max_size=8))
def test_every_flipped_bit_is_noticed(key: str, ring: Keyring) -> None:
    """One bit anywhere behind the form's mark makes it unreadable; in the mark itself, it is never taken for the key."""
    text = ring.seal(7, key).encode()
    for position, bit in itertools.product(range(len(text)), range(8)):
        flipped = bytes(octet ^ (1 << bit if at == position else 0) for at, octet in enumerate(text)).decode("latin-1")
        assert open_or_none(ring, 7, flipped) in ((None,) if position >= PREFIX else (None, flipped))


@given(key=KEYS, data=st.data())
def test_what_is_cut_or_joined_is_noticed(key: str, data: st.DataObject, ring: Keyring) -> None:
    """Shorter or longer at any place, it is unreadable."""
    text = ring.seal(7, key)
    at = data.draw(st.integers(PREFIX, len(text) - 1))
    more = data.draw(st.text("ABab01-_=+/ \n", min_size=1))
    for changed in (text[:at], text[:PREFIX] + text[at + 1 :], text + more, text[:at] + more + text[at:]):
        assert "was changed" in unreadable(ring, 7, changed) or "[keys] names neither" in unreadable(ring, 7, changed)


@given(account_id=ACCOUNTS, another=ACCOUNTS, key=KEYS)
def test_a_key_opens_for_its_account_alone(account_id: int, another: int, key: str, ring: Keyring) -> None:
    """Copied into another row, it does not open."""
    text = ring.seal(account_id, key)
    assert (key if account_id == another else None) == open_or_none(ring, another, text)


@given(account_id=ACCOUNTS, key=KEYS)
def test_another_master_key_opens_nothing(account_id: int, key: str, ring: Keyring, other: Keyring, renewed: Keyring) -> None:
    """Without its master key it is unreadable, and which one is missing is said; also if it claims to be under one that is
    there. A retired master key opens, and is not the current one."""
    text = ring.seal(account_id, key)
    assert f"under master key {ring.require_master()}, which" in unreadable(other, account_id, text)
    assert "which [keys] names neither" in unreadable(Keyring(KeysConfig()), account_id, text)
    claimed = text.replace(ring.require_master(), other.require_master())
    assert "was changed" in unreadable(other, account_id, claimed)
    assert (key, False) == (renewed.open(account_id, text), renewed.is_current(text))


@given(text=st.one_of(KEYS, st.text(st.characters(codec=None)), st.from_regex(r"sealed:1:[0-9a-f]{16}:[\w-]*")))
def test_any_text_opens_or_is_unreadable(text: str, ring: Keyring) -> None:
    """Whatever lies in the row, the answer is a key or that one fault: what has not the mark is a key in plain."""
    marked = text.startswith("sealed:") and text[7:].partition(":")[0].isdecimal() and ":" in text[7:]
    assert marked or text == ring.open(1, text)
    assert open_or_none(ring, 1, text) in (None, text)


@given(account_id=ACCOUNTS, key=st.from_regex(r"bis_[0-9a-f]{64}", fullmatch=True))
def test_faults_and_names_show_no_key(account_id: int, key: str, ring: Keyring, other: Keyring) -> None:
    """Neither an API key, sealed or plain, nor a master key is in any fault, nor in what a debugger prints."""
    text = ring.seal(account_id, key)
    shown = repr(ring) + str(ring) + unreadable(other, account_id, text) + unreadable(ring, account_id, text[:-1])
    shown += unreadable(ring, account_id, "sealed:2:" + key)
    secrets = [
        key,
        text[PREFIX + 17 :],
        *(form for master in MASTERS for form in (base64.b64encode(master).decode(), master.hex())),
    ]
    assert [] == [secret for secret in secrets if secret in shown and secret not in repr(ring)]
    assert f"<Keyring current={ring.require_master()} retired=[]>" == repr(ring)


def test_without_a_master_key_nothing_is_sealed() -> None:
    """Keys in plain are opened, sealing is refused, and what to do is said."""
    ring = Keyring(KeysConfig())
    assert (False, KEY, False) == (ring.has_master, ring.open(1, KEY), ring.is_current(KEY))
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32") as raised:
        ring.seal(1, KEY)
    assert 2 == raised.value.exit_code


def test_the_form_is_kept(files: list[Path]) -> None:
    """What an earlier bisd sealed opens: the form, the id of a master key, and what it is bound to stay what they are."""
    text = (
        "sealed:1:349ae164b4edb4f3:3_OjExD93bf-w9Ds-5thGk0W1q9ambMgBHnMEKhFfTD54BgIlk"
        "MEpiwjkhEjhRafooPTHmkA63O8UQVfSOEsqaRlx6MTch8u7ZZqKG_k4BbxwuRjpUVZaKwAjMvzjoe0"
    )
    assert KEY == Keyring(KeysConfig(master_file=files[0])).open(42, text)


@pytest.mark.parametrize(
    "content", [base64.b64encode(MASTERS[0]), base64.b64encode(MASTERS[0]) + b"\r\n", b"01" * 32, b"01" * 32 + b"\n"]
)
def test_a_master_key_is_base64_or_hexadecimal(content: bytes, ring: Keyring, tmp_path: Path) -> None:
    """The same master key in either form, with a newline at its end or without, has the same id, and opens."""
    (tmp_path / "master").write_bytes(content)
    again = Keyring(KeysConfig(master_file=tmp_path / "master"))
    assert (True, ring.require_master()) == (again.has_master, again.require_master())
    assert KEY == again.open(1, ring.seal(1, KEY))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", MASTERS[0], base64.b64encode(b"x" * 31), base64.b64encode(b"x" * 33), b"78" * 31, b"78" * 33,
        base64.b64encode(MASTERS[0]) + b"\n\n", b" " + base64.b64encode(MASTERS[0]),
        base64.b64encode(MASTERS[0])[:20] + b"\n" + base64.b64encode(MASTERS[0])[20:], base64.urlsafe_b64encode(b"\xff" * 32),
        b"00" * 32, base64.b64encode(bytes(32)), b"\xff" * 44, KEY.encode(), None,
    ],
)  # fmt: skip
def test_what_is_no_master_key_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Wrong length, blanks, zeros, not text, no file: told with the setting, the file, and how to make one; never quoted."""
    path = tmp_path / "master"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        Keyring(KeysConfig(master_file=path))
    (fault,) = raised.value.faults
    assert fault.startswith("keys.master_file: ")
    assert str(path) in fault
    assert "`openssl rand -base64 32` makes one" in fault
    assert not content or not content.strip() or content.strip().decode("latin-1") not in fault


def test_every_faulty_file_is_told_at_once(files: list[Path], tmp_path: Path) -> None:
    """Each with its place in the configuration; the same master key twice is a fault, whatever its files are called."""
    (tmp_path / "again").write_text(MASTERS[0].hex())
    retired = [tmp_path / "missing", tmp_path / "again", files[1]]
    with pytest.raises(ConfigurationError) as raised:
        Keyring(KeysConfig(master_file=files[0], retired_files=retired))
    assert ["keys.retired_files.0", "keys.retired_files.1"] == [fault.partition(":")[0] for fault in raised.value.faults]
    assert "that another file has too" in raised.value.faults[1]


def test_the_census(ring: Keyring, renewed: Keyring) -> None:
    """Keys in plain and every master key of ours, also those with nothing under them; then those that are not ours."""
    old, new = ring.require_master(), renewed.require_master()
    assert [
        KeyCount(None, "plain", 0),
        KeyCount(new, "current", 4),
        KeyCount(old, "retired", 0),
        KeyCount("0123456789abcdef", "unknown", 1),
    ] == renewed.census({new: 4, "0123456789abcdef": 1})


async def test_all_keys_are_sealed(connect: Connect, ring: Keyring) -> None:
    """Keys that SQL made, current and previous ones, are sealed, and open to what they were; a second time there is nothing
    left to do, and a key made since is found."""
    connection = await connect()
    keys = await create(connection, 1203)
    await rotate(connection, 5, KEY)
    steps: list[int] = []
    assert Sealing(1204, []) == await seal_accounts(connection, ring, steps.append)
    assert [500, 501, 203] == sorted(steps, key=[500, 501, 203].index)
    assert keys | {5: KEY} == await opened(connection, ring)
    assert {5: keys[5]} == await opened(connection, ring, "previous_api_key")
    assert {ring.require_master(): 1204} == await insight.keys(connection)
    assert Sealing(0, []) == await seal_accounts(connection, ring)
    keys |= await create(connection, 1)
    assert Sealing(1, []) == await seal_accounts(connection, ring, rewrap=False)
    assert keys | {5: KEY} == await opened(connection, ring)


async def test_a_sealed_key_survives_its_rotation(connect: Connect, ring: Keyring) -> None:
    """SQL moves a key from one column to the other without opening it: it still opens."""
    connection = await connect()
    keys = await create(connection, 1)
    await seal_accounts(connection, ring)
    await rotate(connection, 1, KEY)
    assert (keys, {1: KEY}) == (await opened(connection, ring, "previous_api_key"), await opened(connection, ring))


async def test_swapped_rows_do_not_open(connect: Connect, ring: Keyring) -> None:
    """Whoever may write the table, and gives two accounts each other's key, gives them none."""
    connection = await connect()
    await create(connection, 2)
    await seal_accounts(connection, ring)
    keys = await stored(connection)
    for id, key in ((1, "placeholder-while-swapping"), (2, keys[1]), (1, keys[2])):
        await connection.execute("update bisd.account set api_key = $2 where id = $1", id, key)
    for id in (1, 2):
        assert "was changed, or sealed for another account" in unreadable(ring, id, (await stored(connection))[id])


async def test_a_new_master_key_takes_over(connect: Connect, ring: Keyring, renewed: Keyring, files: list[Path]) -> None:
    """Interrupted after its first batch and run again, sealing ends with every key under the new master key alone; in
    between, every key opens."""
    connection = await connect()
    keys = await create(connection, 1100)
    await rotate(connection, 1, KEY)
    await seal_accounts(connection, ring)

    class InterruptedError_(Exception):
        pass

    def interrupt(_: int) -> None:
        raise InterruptedError_

    with pytest.raises(InterruptedError_):
        await seal_accounts(connection, renewed, interrupt)
    assert {renewed.require_master(): 501, ring.require_master(): 600} == await insight.keys(connection)
    assert keys | {1: KEY} == await opened(connection, renewed)
    assert Sealing(600, []) == await seal_accounts(connection, renewed)
    alone = Keyring(KeysConfig(master_file=files[1]))
    assert (keys | {1: KEY}, {1: keys[1]}) == (
        await opened(connection, alone),
        await opened(connection, alone, "previous_api_key"),
    )


async def test_a_daemon_leaves_other_master_keys_alone(connect: Connect, ring: Keyring, renewed: Keyring) -> None:
    """Daemons with the old and the new master key, while it is being changed, do not undo each other's work."""
    connection = await connect()
    await create(connection, 2)
    await seal_accounts(connection, ring)
    await create(connection, 1)
    assert Sealing(1, []) == await seal_accounts(connection, renewed, rewrap=False)
    assert {ring.require_master(): 2, renewed.require_master(): 1} == await insight.keys(connection)


async def test_what_cannot_be_opened_is_left(connect: Connect, ring: Keyring, other: Keyring) -> None:
    """Keys under a master key that is not there stay as they are and are named; all others are sealed, also the other key
    of the same account."""
    connection = await connect()
    keys = await create(connection, 600)
    for id in (2, 599):
        await connection.execute("update bisd.account set api_key = $2 where id = $1", id, other.seal(id, keys[id]))
    await rotate(connection, 2, KEY)
    left = await stored(connection, "previous_api_key") | {599: (await stored(connection))[599]}
    assert Sealing(599, [2, 599]) == await seal_accounts(connection, ring)
    assert left == await stored(connection, "previous_api_key") | {599: (await stored(connection))[599]}
    assert KEY == ring.open(2, (await stored(connection))[2])
    assert Sealing(0, [2, 599]) == await seal_accounts(connection, ring)


async def test_a_rotation_meanwhile_stands(connect: Connect, ring: Keyring) -> None:
    """A key that is replaced between reading and sealing is not brought back, and its successor is sealed in the same run."""
    connection, rotating, watching = await connect(), await connect(), await connect()
    keys = await create(connection, 3)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group, rotating.transaction():
        await rotate(rotating, 2, KEY)
        sealing = group.create_task(seal_accounts(connection, ring))
        await eventually(lambda: waits(watching))
    assert Sealing(4, []) == sealing.result()
    assert keys | {2: KEY} == await opened(watching, ring)
    assert {2: keys[2]} == await opened(watching, ring, "previous_api_key")
    assert 4 == await sealed(watching, ring)


async def test_several_at_once_seal_every_key_once(connect: Connect, ring: Keyring, renewed: Keyring) -> None:
    """Three at once share the work, wait for each other in no circle, and leave every key sealed and readable."""
    connections = [await connect() for _ in range(3)]
    keys = await create(connections[0], 2000)
    for current in (ring, renewed):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(seal_accounts(connection, current)) for connection in connections]
        assert 2000 == sum(task.result().keys for task in tasks)
        assert keys == await opened(connections[0], current)
        assert 2000 == await sealed(connections[0], current)


async def test_killed_midway_it_is_done_the_next_time(
    connect: Connect, command: Run, dsn: str, ring: Keyring, files: list[Path]
) -> None:
    """kill -9 in the middle leaves every key whole, and the next run finishes."""
    connection, locking = await connect(), await connect()
    keys = await create(connection, 1200)
    environment = {"BISD_DATABASE_DSN": dsn, "BISD_KEYS_MASTER_FILE": str(files[0])}
    async with locking.transaction():
        await locking.execute("select from bisd.account where id = 700 for update")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bisd", "keys", "seal", env=os.environ | environment
        )
        await eventually(lambda: waits(connection), 60)
        process.kill()
        assert -signal.SIGKILL == await process.wait()
    assert (500, keys) == (await sealed(connection, ring), await opened(connection, ring))
    await eventually(lambda: alone(connection))
    ran = await asyncio.to_thread(command, "keys", "seal", "--json", BISD_KEYS_MASTER_FILE=str(files[0]))
    assert {"key_id": ring.require_master(), "unreadable": []}.items() <= json.loads(ran.stdout).items()
    assert (1200, keys) == (await sealed(connection, ring), await opened(connection, ring))


async def alone(connection: db.Connection) -> bool:
    """Whether the killed process's session has ended."""
    return not await connection.fetchval(
        "select count(*) from pg_stat_activity where application_name = 'bisd' and datname = current_database()"
    )


async def test_no_key_in_plain_travels(connect: Connect, ring: Keyring) -> None:
    """No statement that seals holds a key, from where it could get into the server's log."""
    connection = await connect()
    keys = await create(connection, 3)
    await rotate(connection, 2, KEY)
    sent: list[str] = []

    def record(query: Any) -> None:
        sent.append(f"{query.query} {query.args}")

    with connection.query_logger(record):
        await seal_accounts(connection, ring)
    assert 1 == sum(f"sealed:1:{ring.require_master()}:" in text for text in sent)
    assert [] == [key for key in [*keys.values(), KEY] for text in sent if key in text or key.encode().hex() in text]


@pytest.mark.parametrize("role", ["bisd_daemon", "bisd_app", "bisd_reader"])
async def test_only_the_daemon_s_role_seals(role: str, connect: Connect, ring: Keyring) -> None:
    """bisd_daemon can seal, and can put nothing but sealed keys in the place of keys; the others can do nothing of it."""
    connection = await connect()
    keys = await create(connection, 2)
    await connection.execute(f"set role {role}")
    if role != "bisd_daemon":
        for refused in (seal_accounts(connection, ring), write(connection, [ring.seal(1, KEY)])):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await refused
        return
    with pytest.raises(asyncpg.PostgresError, match="only sealed keys may take the place of keys") as raised:
        await write(connection, [KEY])
    assert "BISD0" == raised.value.sqlstate
    assert Sealing(2, []) == await seal_accounts(connection, ring)
    assert keys == await opened(connection, ring)


async def write(connection: db.Connection, texts: list[str]) -> None:
    nothing = [None] * len(texts)
    await connection.execute(db.query("seal_keys"), [1] * len(texts), [b""] * len(texts), nothing, texts, nothing)


@pytest.mark.parametrize(
    "key",
    ["sealed:1:0123456789abcdef:short", "sealed:2:0123456789abcdef:" + "A" * 60, "sealed:1:somebody's own", "k" * 1025],
)
@pytest.mark.parametrize("column", ["api_key", "previous_api_key"])
async def test_nobody_s_key_is_taken_for_a_sealed_one(key: str, column: str, connect: Connect) -> None:
    """A key that begins as sealed ones do, and is none, is refused by constraint; so is one that sealed would not fit."""
    connection = await connect()
    await create(connection, 1)
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(f"update bisd.account set {column} = $1, previous_until = now()", key)


@pytest.mark.parametrize("key", ["sealed:but in an envelope", "é" * 512, "{}[]:%_\\'\"; -- 16 characters and more"])
async def test_keys_that_somebody_brought_are_sealed(key: str, connect: Connect, ring: Keyring) -> None:
    """Any text that the table takes, to the longest, is sealed, and opens to what it was."""
    connection = await connect()
    await create(connection, 1)
    await rotate(connection, 1, key)
    assert Sealing(2, []) == await seal_accounts(connection, ring)
    assert {1: key} == await opened(connection, ring)


@pytest.mark.parametrize("rewrap", [True, False])
@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("daemon", [True, False])
async def test_looking_for_nothing_is_cheap(dsn: str, daemon: bool, analyzed: bool, rewrap: bool, ring: Keyring) -> None:
    """Where all of 30,000 accounts are sealed, to see that costs a few pages of one index, whatever is known of the table."""
    connection = await db.connect(dsn, db.DAEMON if daemon else None)
    await connection.execute(
        "insert into bisd.account (name, plan, api_key) "
        "select 'x', 'medium', 'sealed:1:' || $1 || ':' || repeat('A', 60) || i from generate_series(1, 30000) i",
        ring.require_master(),
    )
    if analyzed:
        await connection.execute("analyze bisd.account")
    bounds = [ring.require_master()] * 2 if rewrap else ["0", "~"]
    explain = "explain (analyze, buffers, format json) " + db.query("unsealed")
    plan = json.loads(await connection.fetchval(explain, *bounds, "", 0, 500))[0]["Plan"]
    await connection.close()
    assert (0, True) == (plan["Actual Rows"], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 12)
    assert "Seq Scan" not in json.dumps(plan)


def test_the_commands(command: Run, ring: Keyring, renewed: Keyring, files: list[Path]) -> None:
    """status and seal, from keys in plain to a new master key, for people and for programs."""
    old, new = ring.require_master(), renewed.require_master()
    for _ in range(2):
        command("account", "add", "Tea Shop", "--plan", "medium")
    assert [{"key_id": None, "state": "plain", "keys": 2}] == json.loads(command("keys", "status", "--json").stdout)
    first = {"BISD_KEYS_MASTER_FILE": str(files[0])}
    ran = command("keys", "seal", **first)
    assert (0, f"Sealed 2 API keys under master key {old}.\n", "") == (ran.returncode, ran.stdout, ran.stderr)
    second = {"BISD_KEYS_MASTER_FILE": str(files[1]), "BISD_KEYS_RETIRED_FILES": json.dumps([str(files[0])])}
    assert [("plain", 0), ("current", 0), ("retired", 2)] == [
        (row["state"], row["keys"]) for row in json.loads(command("keys", "status", "--json", **second).stdout)
    ]
    ran = command("keys", "seal", "--json", **second)
    assert (0, {"sealed": 2, "key_id": new, "unreadable": []}) == (ran.returncode, json.loads(ran.stdout))
    ran = command("keys", "status", **first)
    assert (0, True, True) == (ran.returncode, "unknown" in ran.stdout, new in ran.stdout)


def test_sealing_tells_what_it_cannot_open(command: Run, files: list[Path]) -> None:
    """Exit 1, after what could be done was done, with the accounts in a sentence and in the JSON."""
    command("account", "add", "Tea Shop", "--plan", "medium")
    command("keys", "seal", BISD_KEYS_MASTER_FILE=str(files[0]))
    command("account", "add", "Tea House", "--plan", "medium")
    ran = command("keys", "seal", "--json", BISD_KEYS_MASTER_FILE=str(files[2]))
    assert (1, 1, [1]) == (ran.returncode, json.loads(ran.stdout)["sealed"], json.loads(ran.stdout)["unreadable"])
    assert "API keys of 1 accounts cannot be opened, and were left as they are: account 1." in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("arguments", [["keys", "seal"], ["keys", "seal", "--json"]])
def test_sealing_needs_a_master_key(arguments: list[str], command: Run, tmp_path: Path) -> None:
    """Exit 2 and the setting's name: without one, and with a file that has none."""
    for environment in ({}, {"BISD_KEYS_MASTER_FILE": str(tmp_path / "missing")}):
        ran = command(*arguments, **environment)
        assert (2, "", True) == (ran.returncode, ran.stdout, ran.stderr.startswith("bisd: keys.master_file: "))


async def test_a_terminal_sees_how_far_it_is(dsn: str, connect: Connect, files: list[Path]) -> None:
    """On a terminal a bar goes along; standard output is the same."""
    await create(await connect(), 1200)
    terminal, stderr = pty.openpty()
    environment = {"BISD_DATABASE_DSN": dsn, "BISD_KEYS_MASTER_FILE": str(files[0]), "TERM": "xterm"}
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "bisd", "keys", "seal"],
        stdout=subprocess.PIPE, stderr=stderr, timeout=60, env=os.environ | environment,
    )  # fmt: skip
    os.close(stderr)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert (0, b"Sealed 1200 API keys") == (ran.returncode, ran.stdout[:20])
    assert "Sealing" in shown
    assert "100%" in shown
