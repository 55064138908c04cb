"""No secret and no customer leaves by the side doors: the log at its most talkative, the command line's faults, /proc."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner

from bisd import cli, log
from bisd.errors import BisdError
from tests.support.cli import Run
from tests.support.daemon import Process
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

PASSWORD = "seeded-dsn-password"  # noqa: S105
TOKEN, PATH = "seeded-url-token", "seeded-url-path"
AUTHORIZATION = "seeded-authorization"
EMAIL, PHONE = "seeded.customer@example.org", "+15550123456789"
ANSWER = "seeded-answer-body"
MASTER = base64.b64encode(b"seeded master key of 32 octets!!").decode()
SEEDS = (PASSWORD, TOKEN, PATH, AUTHORIZATION, EMAIL, PHONE, ANSWER, MASTER)
OWED = """
    insert into bisd.notification (account_id, channel, customer_email, customer_sms)
    select id, 'email', $1, $2 from bisd.account order by id
"""


def found(text: str, *more: str) -> list[str]:
    """Which seeds are in the text, as they are or percent-encoded; and which of `more`."""
    return [seed for seed in (*SEEDS, *more) if seed in text or seed.replace("+", "%2B").replace("@", "%40") in text]


def with_password(dsn: str) -> str:
    """The server trusts whoever comes by its socket: the password is as good as any."""
    scheme, _, rest = dsn.partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user.partition(':')[0]}:{PASSWORD}@{place}"


class Moods:
    """A receiver that does what the path says."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        match request.path.rpartition("/")[2]:
            case "hang":
                await asyncio.Event().wait()
            case "gone":
                return web.Response(status=410, text=ANSWER)
            case "moved":
                return web.Response(status=302, headers={"Location": f"https://example.org/{ANSWER}"})
            case "big":
                return web.Response(status=500, text=ANSWER * 100_000)
            case "odd":
                return web.Response(status=500, headers={f"X-{i}": ANSWER for i in range(100)})
            case "error":
                return web.Response(status=500, text=ANSWER)
        return web.Response(text=ANSWER)


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of somebody who hangs up instead of shaking hands."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
async def strangers(authority: trustme.CA) -> AsyncIterator[dict[str, Receiver]]:
    """Receivers whose certificates are not to be trusted, by what is wrong with them."""
    receivers = {
        "tls_untrusted": Receiver(trustme.CA()),
        "tls_name": Receiver(authority, "example.com"),
        "tls_expired": Receiver(authority, "127.0.0.1", until=datetime(2025, 1, 1, tzinfo=UTC)),
    }
    for receiver in receivers.values():
        await receiver.start()
    yield receivers
    for receiver in receivers.values():
        await receiver.stop()


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Shop]:
    """Another account, whose key will not open."""
    other = await Shop.open(dsn)
    yield other
    other.connection.terminate()


async def subscribe(shop: Shop, url: str) -> int:
    number = await shop.subscribe("notification/create", f"{url}?token={TOKEN}")
    headers = json.dumps({"Authorization": f"Bearer {AUTHORIZATION}"})
    await shop.connection.execute("update bisd.webhook set headers = $2::jsonb where id = $1", number, headers)
    return number


async def attempts(shop: Shop) -> dict[int, tuple[Any, ...]]:
    """Of each webhook, what became of its last attempt."""
    rows = await shop.connection.fetch("select distinct on (webhook_id) * from bisd.attempt order by webhook_id, attempted_at")
    return {row["webhook_id"]: (row["verdict"], row["status"], row["code"]) for row in rows}


async def test_a_daemon_at_debug_says_nothing_of_what_it_knows(
    server: Server, shop: Shop, dsn: str, receiver: Receiver, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stranger: int, strangers: dict[str, Receiver], other: Shop,
) -> None:  # fmt: skip
    """Every way to fail, a restart of the database and a key that cannot be opened: no seed in its log, its environment or
    its command line; and what it logs is what happened."""
    (tmp_path / "master").write_text(MASTER)
    for name, value in {
        "BISD_LOG_LEVEL": "debug", "BISD_KEYS_MASTER_FILE": str(tmp_path / "master"), "BISD_DELIVERY_TIMEOUT": "1s",
        "BISD_DELIVERY_CONNECT_TIMEOUT": "500ms", "BISD_RETRY_MAX_ATTEMPTS": "2",
        "BISD_DEACTIVATION_FAILING_FOR": "1ms", "BISD_DEACTIVATION_MIN_ATTEMPTS": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    receiver.answer = Moods()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    hooks = {mood: await subscribe(shop, f"{receiver.url}{PATH}/{mood}") for mood in
             ("well", "error", "hang", "gone", "moved", "big", "odd")}  # fmt: skip
    hooks |= {code: await subscribe(shop, f"{one.url}{PATH}") for code, one in strangers.items()}
    hooks["closed"] = await subscribe(shop, f"https://127.0.0.1:{port}/{PATH}")
    hooks["refused"] = await subscribe(shop, f"https://10.0.0.1/{PATH}")
    hooks["hangs up"] = await subscribe(shop, f"https://127.0.0.1:{stranger}/{PATH}")
    unreadable = await subscribe(other, f"{receiver.url}{PATH}/well")
    key = await shop.connection.fetchval("select bisd.rotate_key($1, '1 day')", shop.account_id)
    await other.connection.execute(
        "update bisd.account set api_key = $2 where id = $1", other.account_id, f"sealed:1:0123456789abcdef:{other.key}"
    )
    daemon = Process(tmp_path, with_password(dsn), ca_file)
    await daemon.start()
    try:
        process = Path("/proc") / str(daemon.pid)
        seen = "".join((process / name).read_bytes().decode() for name in ("environ", "cmdline"))
        await shop.connection.execute(OWED, EMAIL, PHONE)
        await eventually(lambda: _all_failed(shop, set(hooks.values())), 30)
        outcomes = await attempts(shop)
        await shop.connection.close()
        await asyncio.to_thread(server.restart, "immediate")
        shop.connection = await asyncpg.connect(dsn)
        arrived = len(receiver.requests)
        await shop.connection.execute(OWED, EMAIL, PHONE)
        await receiver.received(arrived + 1)
    finally:
        assert 0 == await daemon.stop()
    signatures = {got.headers[name] for got in receiver.requests for name in got.headers if "signature" in name.lower()}
    assert EMAIL.encode() in receiver.requests[0].body
    assert f"Bearer {AUTHORIZATION}" == receiver.requests[0].headers["Authorization"]
    assert len(signatures) >= 3
    assert ("delivered", 200, None) == outcomes[hooks["well"]]
    told = [json.loads(line) for line in daemon.log.splitlines()]
    assert {"attempt_failed", "key_unreadable", "database_lost", "webhook_deactivated"} <= {line["event"] for line in told}
    assert {unreadable} == {line["webhook_id"] for line in told if line["event"] == "key_unreadable"}
    codes = {line.get("code") for line in told}
    assert {"timeout", "connect", "refused_url", *strangers} <= codes
    assert {"gone", "failing"} == {line["reason"] for line in told if line["event"] == "webhook_deactivated"}
    assert [] == found(daemon.log, shop.key, key, other.key, *signatures)
    assert [] == found(seen, shop.key, key, other.key)


async def _all_failed(shop: Shop, webhooks: set[int]) -> bool:
    """Until each of them has had its last attempt, or was switched off."""
    rows = await shop.connection.fetch(
        "select d.webhook_id from bisd.delivery d join bisd.webhook w on w.id = d.webhook_id where w.enabled"
    )
    return not webhooks & {row["webhook_id"] for row in rows}


FAULTS = {
    "no database": (["account", "list"], {"BISD_DATABASE_DSN": f"postgresql://bisd:{PASSWORD}@127.0.0.1:1/shop"}),
    "no such host": (["check"], {"BISD_DATABASE_DSN": f"postgresql://bisd:{PASSWORD}@host.invalid/shop"}),
    "no URL": (["check"], {"BISD_DATABASE_DSN": f"{PASSWORD}@127.0.0.1/shop"}),
    "an odd URL": (["check"], {"BISD_DATABASE_DSN": f"postgresql://bisd:{PASSWORD}@127.0.0.1:x/shop"}),
    "no string": (["check"], {"BISD_DATABASE_DSN": f'["{PASSWORD}"]'}),
    "the key for its file": (["check"], {"BISD_KEYS_MASTER_FILE": MASTER}),
    "the keys for their files": (["check"], {"BISD_KEYS_RETIRED_FILES": f'["{MASTER}"]'}),
    "a proxy with a password": (["check"], {"BISD_EGRESS_PROXY": f"http://bisd:{PASSWORD}@proxy.example.com:3128"}),
    "a refused URL": (["webhook", "add", "1", "t", f"https://user:{TOKEN}@example.com/{PATH}"], {}),
    "a refused host": (["webhook", "add", "1", "t", f"https://10.0.0.1/{PATH}?token={TOKEN}"], {}),
    "a URL that is refused later": (["webhook", "set", "1", f"url=https://127.1/{PATH}?token={TOKEN}"], {}),
    "no account": (["webhook", "add", "99", "t", f"https://example.com/{PATH}?token={TOKEN}"], {}),
    "no topic": (["webhook", "add", "1", "a topic", f"https://example.com/{PATH}?token={TOKEN}"], {}),
    "bad headers": (["webhook", "set", "1", f'headers={{"Authorization": "{AUTHORIZATION}\\n"}}'], {}),
    "a bad limit": (["webhook", "set", "1", "max_in_flight=0"], {}),
    "a limit beyond integers": (["webhook", "set", "1", "max_in_flight=99999999999999999999"], {}),
    "a bad rate": (["webhook", "set", "1", "rate=-1"], {}),
    "a long description": (["webhook", "set", "1", f"description={'x' * 300}"], {}),
    "a bad filter": (["webhook", "set", "1", "filter=$.a ==="], {}),
    "a bad body": (["emit", "1", "t", "BODY"], {}),
    "no plan": (["account", "set-plan", "1", "none"], {}),
    "no webhook": (["webhook", "show", "99"], {}),
    "no event": (["delivery", "retry", "99"], {}),
    "an unreadable key": (["account", "show", "1", "--reveal"], {}),
}


async def test_faults_of_the_command_line_quote_no_secret(shop: Shop, dsn: str, tmp_path: Path) -> None:
    """Whatever is wrong: neither what is stored nor what was given is repeated, and a traceback is none of the answers."""
    webhook_id = await subscribe(shop, f"https://example.com/{PATH}")
    assert webhook_id == shop.account_id == 1
    await shop.connection.execute(OWED, EMAIL, PHONE)
    await shop.connection.execute("update bisd.account set api_key = 'sealed:1:0123456789abcdef:' || $1", shop.key)
    config = f'[database]\ndsn = "{with_password(dsn)}"\n'
    (tmp_path / "faults.toml").write_text(config)
    ended = {name: await asyncio.to_thread(_run, tmp_path / "faults.toml", name) for name in FAULTS}
    assert {} == {name: hits for name, (_, text) in ended.items() if (hits := found(text, shop.key))}
    assert [] == [(name, text) for name, (status, text) in ended.items() if status == 0 or "Traceback" in text]


def _run(config: Path, name: str) -> tuple[int, str]:
    """As cli.main does it, without the price of a process: the exit status, and all that is written."""
    arguments, environment = FAULTS[name]
    (body := config.with_name("body.json")).write_text(f'{{"email": {EMAIL}}}')
    given = [str(body) if word == "BODY" else word for word in arguments]
    result = CliRunner().invoke(cli.bisd, ["--config", str(config), *given], env=environment)
    match result.exception:
        case None | SystemExit():
            return result.exit_code, result.output
        case BisdError() as fault:
            return fault.exit_code, result.output + str(fault)
        case fault:
            return 1, result.output + "".join(traceback.format_exception(fault))


async def test_what_is_shown_leaves_out_what_is_not_asked_for(bisd: Run, shop: Shop) -> None:
    """Lists and records: no key unless it is to be revealed, no header's value, no customer."""
    await subscribe(shop, f"https://example.com/{PATH}")
    await shop.connection.execute(OWED, EMAIL, PHONE)
    commands = [["account", "list"], ["account", "show", "1"], ["webhook", "list"], ["webhook", "show", "1"],
                ["delivery", "list"], ["delivery", "show", "1"], ["keys", "status"], ["check"]]  # fmt: skip
    shown = {" ".join(words): bisd(*words, "--json") for words in commands}
    for words, process in shown.items():
        owner_sees = {TOKEN, PATH} if words.startswith("webhook") else set()
        assert (words, set()) == (words, set(found(process.stdout + process.stderr, shop.key)) - owner_sees)
    assert shop.key in bisd("account", "show", "1", "--reveal").stdout


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_that_is_logged_shows_no_locals(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever logs one, with its traceback or without, at whatever level."""
    log.configure("debug", form)
    key, body = TOKEN + str(len(TOKEN)), {"email": EMAIL}
    try:
        _sign(key, body)
    except ssl.SSLError as fault:
        log.get().exception(log.Event.INTERNAL_FAULT, error=type(fault).__name__, where=log.place(fault))
        log.get().error(log.Event.INTERNAL_FAULT, exc_info=fault)
        log.get().debug(log.Event.INTERNAL_FAULT, exc_info=True)
    written = capsys.readouterr().err
    assert 3 == written.count("internal_fault")
    assert [] == found(written)


def _sign(key: str, body: dict[str, str]) -> None:
    signed = f"{key}{body}"
    raise ssl.SSLError(len(signed), "of a library")


def test_the_seeds_would_be_found() -> None:
    """The search finds each of them, also in a URL."""
    assert list(SEEDS) == found(" ".join(SEEDS))
    assert [EMAIL, PHONE] == found("?a=seeded.customer%40example.org&b=%2B15550123456789")
    assert os.environ.keys().isdisjoint(SEEDS)
