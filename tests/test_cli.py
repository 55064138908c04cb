"""The command line, as a person or a program uses it: real processes, real database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import asyncpg
import pytest

from tests.support.cli import Run
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import Shop


def test_a_subscription_by_hand(bisd: Run) -> None:
    """Account, webhook, event and delivery, from nothing, with --json for programs and tables for people."""
    account = json.loads(bisd("account", "add", "Tea Shop", "--plan", "medium", "--json").stdout)
    assert account["api_key"].startswith("bis_")
    webhook = json.loads(bisd("webhook", "add", str(account["id"]), "order/paid", "https://example.com/hook", "--json").stdout)
    assert webhook == {"id": 1, "enabled": False}
    assert bisd("webhook", "enable", "1").stdout == "Webhook 1 is switched on.\n"
    assert [row["enabled"] for row in json.loads(bisd("webhook", "list", "--json").stdout)] == [True]
    assert json.loads(bisd("emit", "1", "order/paid", "-", "--json", stdin='{"order":1}').stdout) == {"id": 1}
    (delivery,) = json.loads(bisd("delivery", "list", "--json").stdout)
    assert (delivery["state"], delivery["event_id"], delivery["topic"]) == ("pending", 1, "order/paid")
    assert bisd("webhook", "disable", "1").returncode == 0
    shown = json.loads(bisd("delivery", "show", "1", "--json").stdout)
    assert (shown["deliveries"][0]["state"], shown["attempts"]) == ("held", [])
    table = bisd("account", "list")
    assert "Tea Shop" in table.stdout
    assert account["api_key"] not in table.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["account", "add", "x", "--plan", "gold"], 1, 'there is no plan "gold". The plans are'),
        (["webhook", "add", "7", "a", "https://example.com/"], 1, "there is no account 7"),
        (["webhook", "add", "1", "a", "http://example.com/"], 2, "plain HTTP is not allowed"),
        (["webhook", "add", "1", "a", "https://127.0.0.1/"], 2, "not a public one"),
        (["webhook", "enable", "7"], 1, "there is no webhook 7"),
        (["delivery", "show", "7"], 1, "no delivery of event 7"),
        (["emit", "1", "a", "/nowhere"], 2, "No such file"),
        (["webhook", "enable", "9223372036854775808"], 2, "is not in the range"),
        (["delivery", "show", "-1"], 2, "No such option"),
        (["account", "add", "", "--plan", "medium"], 1, "an account needs a name"),
        (["frobnicate"], 2, "No such command"),
        (["--config", "/nowhere.toml", "run"], 2, "cannot be read: No such file or directory"),
    ],
)
def test_faults_are_told_in_a_sentence(bisd: Run, arguments: list[str], code: int, sentence: str) -> None:
    """On standard error, with the exit status of the interface, and never a traceback."""
    ran = bisd(*arguments)
    assert ran.returncode == code
    assert sentence in ran.stderr.replace("\n", " ")
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize("body", ["{no json}", "", '"\0"', "[" * 200_000])
def test_what_is_no_json_is_refused(body: str, bisd: Run) -> None:
    """With the reason PostgreSQL gives, and exit status 2."""
    bisd("account", "add", "x", "--plan", "medium")
    ran = bisd("emit", "1", "a", "-", stdin=body)
    assert ran.returncode == 2
    assert "is not JSON" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_every_configuration_fault_at_once(bisd: Run) -> None:
    """All of them, each with its key, before anything is done."""
    ran = bisd("run", BISD_DELIVERY_TIMEOUT="15", BISD_RETRY_JITTER="2", BISD_NONSENSE="1")
    assert ran.returncode == 2
    assert all(key in ran.stderr for key in ("delivery.timeout", "retry.jitter", "BISD_NONSENSE"))


def test_an_unreachable_database(bisd: Run) -> None:
    """One line that says where to look."""
    ran = bisd("account", "list", BISD_DATABASE_DSN="postgresql://127.0.0.1:1/x")
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "cannot be reached" in ran.stderr


@pytest.mark.parametrize("command", [["account", "list"], ["run"]])
def test_a_dsn_that_is_none(command: list[str], bisd: Run) -> None:
    """Wrong configuration, with its key; the password in it is not shown."""
    ran = bisd(*command, BISD_DATABASE_DSN="postgresql://shop:hunter2@[::1")
    assert ran.returncode == 2
    assert "database.dsn" in ran.stderr
    assert "hunter2" not in ran.stderr


def test_migrate_check(bisd: Run) -> None:
    """--check says whether the schema is up to date, by its exit status too."""
    assert bisd("migrate", "--check").returncode == 0
    assert bisd("migrate").stdout == ""


async def test_who_may_not_migrate_is_told(server: Server, tmp_path: Path) -> None:
    """A role that may not make a schema is told so in a sentence, and the database stays as it was."""
    dsn = await server.create(migrated=False)
    connection = await asyncpg.connect(dsn)
    await connection.execute("create role migrates_nothing login")
    try:
        file = tmp_path / "nobody.toml"
        file.write_text(f'[database]\ndsn = "{dsn.replace("postgres:@", "migrates_nothing:@")}"\n')
        ran = Run(file)("migrate")
        assert await connection.fetchval("select to_regnamespace('bisd')") is None
    finally:
        await connection.execute("drop role migrates_nothing")
        await connection.close()
    assert (1, "") == (ran.returncode, ran.stdout)
    assert "does not permit this to the role" in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_what_a_receiver_says_is_shown_as_text(shop: Shop, bisd: Run) -> None:
    """Escape sequences in an answer do not reach the terminal."""
    await shop.subscribe("notification/create", "https://example.com/")
    await shop.notify()
    await shop.connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, answer) "
        "select 1, 1, now(), now(), 1, 'failed', 500, '\\x1b5b324a68656c6c6f'"
    )
    shown = bisd("delivery", "show", "1").stdout
    assert "\x1b[2J" not in shown
    assert "\\x1b[2Jhello" in shown


def test_demo_once(tmp_path: Path) -> None:
    """On an embedded PostgreSQL of its own, without any configuration: delivered, verified, exit 0."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BISD_")}
    ran = subprocess.run(
        [sys.executable, "-m", "bisd", "demo", "--once"],
        capture_output=True, text=True, timeout=60, env=environment | {"XDG_DATA_HOME": str(_visible(tmp_path))},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("signature verified") == 10


def test_the_demo_shows_its_pages(tmp_path: Path) -> None:
    """The link that it prints opens them, and what it sells is seen there; Ctrl-C ends it in order."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BISD_")}
    command = [sys.executable, "-u", "-m", "bisd", "demo"]
    place = {"XDG_DATA_HOME": str(_visible(tmp_path))}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment | place
    ) as demo:  # fmt: skip
        try:
            assert demo.stderr is not None
            [link] = re.findall(r"http://\S+", demo.stderr.readline() + demo.stderr.readline())
            with urllib.request.urlopen(link) as answer:  # noqa: S310  (the demo's own)
                cookie = answer.headers["Set-Cookie"].partition(";")[0]
            overview = urllib.request.Request(urljoin(link, "/"), headers={"Cookie": cookie})  # noqa: S310
            with urllib.request.urlopen(overview) as answer:  # noqa: S310
                assert "Overview" in answer.read().decode()
        finally:
            demo.send_signal(signal.SIGINT)
        assert 0 == demo.wait(30)


def _visible(path: Path) -> Path:
    """The embedded server runs as a user of its own if we are root, who must be able to reach its data."""
    for directory in (path, *path.parents):
        if directory.stat().st_uid == os.getuid() and directory.name.startswith(("pytest-", "test_")):
            directory.chmod(0o755)
    return path


async def test_listen_verifies(receiver: Receiver) -> None:
    """`bisd listen` says of each request whether its signatures are right."""
    from datetime import UTC, datetime

    from bisd.delivery.message import compose
    from bisd.model import Delivery, Webhook
    from bisd.receiver import verify

    now = datetime.now(UTC)
    webhook = Webhook(1, 1, "https://example.com/", "bis_" + "k" * 40, None, None, None, True)
    message = compose(webhook, Delivery(1, 7, now, now, now, 0, "a", b"{}", 2), now)
    assert verify(webhook.api_key, message.headers, message.body)
    assert not verify("another key", message.headers, message.body)
    assert not verify(webhook.api_key, message.headers, b"{ }")
    for name in ("X-BIS-Signature", "webhook-signature", "webhook-timestamp"):
        assert not verify(webhook.api_key, message.headers | {name: "1"}, message.body)
