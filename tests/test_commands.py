"""What an operator does with accounts, webhooks and deliveries on the command line; real processes, real database."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.cli import Run
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop

URL = "https://example.com/hook"


def told(run: Run, *arguments: str) -> dict[str, object]:
    """What a command answers as JSON; it must succeed."""
    ran = run(*arguments, "--json")
    assert (0, "") == (ran.returncode, ran.stderr)
    answer: dict[str, object] = json.loads(ran.stdout)
    return answer


async def test_accounts(shop: Shop, bisd: Run) -> None:
    """A key is shown when it is made, and when asked to be; a rotation answers another one, the one before it stays until its
    end; the plan changes."""
    assert {"plan": "medium", "webhooks": True}.items() <= told(bisd, "account", "show", "1").items()
    assert shop.key not in bisd("account", "show", "1").stdout
    assert shop.key == told(bisd, "account", "show", "1", "--reveal")["api_key"]
    fresh = told(bisd, "account", "rotate-key", "1", "--overlap", "2h")["api_key"]
    shown = told(bisd, "account", "show", "1", "--reveal")
    assert (fresh, shop.key) == (shown["api_key"], shown["previous_api_key"])
    left = datetime.fromisoformat(str(shown["previous_until"])) - datetime.now(UTC)
    assert timedelta(hours=1.9) < left < timedelta(hours=2.1)
    assert fresh != bisd("account", "rotate-key", "1", "--overlap", "0s").stdout.strip()
    assert None is told(bisd, "account", "show", "1")["previous_until"]
    assert 0 == bisd("account", "set-plan", "1", "small").returncode
    assert False is told(bisd, "account", "show", "1")["webhooks"]


async def test_tokens(shop: Shop, bisd: Run) -> None:
    """A token is shown when it is made, and nowhere else; it ends after its time, or when it is revoked."""
    made = told(bisd, "token", "add", "1", "--description", "CRM", "--for", "90d")
    assert "bist_" == str(made["token"])[:5]
    assert made["token"] not in bisd("token", "list").stdout
    [listed] = json.loads(bisd("token", "list", "--account", "1", "--json").stdout)
    assert {"id": 1, "account_id": 1, "description": "CRM", "revoked_at": None}.items() <= listed.items()
    left = datetime.fromisoformat(listed["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89.9) < left < timedelta(days=90.1)
    assert 0 == bisd("token", "revoke", "1").returncode
    assert await shop.connection.fetchval("select revoked_at is not null from bisd.token")
    for wrong in (("add", "7"), ("revoke", "7"), ("add", "1", "--for", "0s"), ("add", "1", "--description", "x" * 201)):
        assert 1 == bisd("token", *wrong).returncode


async def test_a_new_key_is_never_stored_in_plain(shop: Shop, bisd: Run, tmp_path: Path) -> None:
    """With a master key, what `add` and `rotate-key` show is sealed in the table, and opens again."""
    master = tmp_path / "master"
    master.write_text("ab" * 32 + "\n")
    sealed = {"BISD_KEYS_MASTER_FILE": str(master)}
    made = json.loads(bisd("account", "add", "Tea", "--plan", "medium", "--json", **sealed).stdout)
    rotated = json.loads(bisd("account", "rotate-key", "1", "--json", **sealed).stdout)
    stored = await shop.connection.fetch("select api_key, previous_api_key from bisd.account order by id")
    assert [True] * 3 == [key.startswith("sealed:1:") for row in stored for key in row if key is not None]
    shown = json.loads(bisd("account", "show", "1", "--reveal", "--json", **sealed).stdout)
    assert (rotated["api_key"], shop.key) == (shown["api_key"], shown["previous_api_key"])
    assert made["api_key"] == json.loads(bisd("account", "show", "2", "--reveal", "--json", **sealed).stdout)["api_key"]
    refused = bisd("account", "show", "2", "--reveal")
    assert (1, "") == (refused.returncode, refused.stdout)
    assert "master key" in refused.stderr


async def test_a_webhook_and_its_settings(shop: Shop, bisd: Run) -> None:
    """Settings are shown as they were set, headers by their names only; KEY= sets back; removed, it is unknown."""
    bisd("webhook", "add", "1", "order/paid", URL, "--enable")
    headers = '{"X-Shop": "teas", "Authorization": "Bearer secret"}'
    given = (
        "rate=2.5",
        "ordered=yes",
        "max_in_flight=3",
        "description=CRM, second try",
        f"headers={headers}",
        "filter=$.a == 1",
    )
    assert 0 == bisd("webhook", "set", "1", *given).returncode
    shown = told(bisd, "webhook", "show", "1")
    names = ("rate", "ordered", "max_in_flight", "description", "headers", "filter", "state", "backlog")
    expected = (2.5, True, 3, "CRM, second try", ["X-Shop", "Authorization"], '($."a" == 1)', "well", 0)
    assert expected == tuple(shown[name] for name in names)
    assert "secret" not in bisd("webhook", "show", "1").stdout
    assert 0 == bisd("webhook", "set", "1", "rate=", "headers=", "filter=", "description=", "ordered=no").returncode
    shown = told(bisd, "webhook", "show", "1")
    assert (None, False, "", [], None) == tuple(shown[name] for name in ("rate", "ordered", "description", "headers", "filter"))
    asked = bisd("webhook", "remove", "1")
    assert (2, True) == (asked.returncode, "say --yes" in asked.stderr)
    assert 0 == bisd("webhook", "remove", "1", "--yes").returncode
    assert "there is no webhook 1" in bisd("webhook", "show", "1").stderr.lower()
    assert [] == json.loads(bisd("webhook", "list", "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["account", "show", "7"], 1, "no account 7"),
        (["account", "rotate-key", "7"], 1, "no account 7"),
        (["account", "rotate-key", "1", "--overlap", "soon"], 2, "give one like 90m, 24h or 7d"),
        (["account", "rotate-key", "1", "--overlap", "1000d"], 1, "cannot overlap"),
        (["account", "set-plan", "1", "gold"], 1, 'no plan "gold". The plans are'),
        (["webhook", "show", "7"], 1, "no webhook 7"),
        (["webhook", "set", "1", "rate"], 2, "is no KEY=VALUE"),
        (["webhook", "set", "1", "color=red"], 1, '"color" is no setting of a webhook. There are url, '),
        (["webhook", "set", "1", "rate=fast"], 1, "a value of another kind"),
        (["webhook", "set", "1", "rate=0"], 1, "rate between 0.001 and 100000"),
        (["webhook", "set", "1", "url=https://10.0.0.1/"], 2, "not a public one"),
        (["webhook", "set", "1", "url="], 1, "it must start with https://"),
        (["webhook", "set", "1", "filter=$.a"], 1, "must be a predicate"),
        (["webhook", "set", "1", "filter=$.a =="], 1, "no SQL/JSON path"),
        (["webhook", "set", "1", 'headers={"Host": "x"}'], 1, 'a header cannot be called "Host"'),
        (["webhook", "set", "1", 'headers={"X-A": "x\\r\\ny"}'], 1, "visible ASCII"),
        (["webhook", "enable", "1", "--resume", "--discard", "--never"], 2, "No such option"),
        (["webhook", "test", "7"], 1, "no webhook 7"),
        (["delivery", "retry", "7"], 1, "Nothing of event 7 can be sent again"),
        (["delivery", "cancel", "7"], 1, "Nothing is owed of event 7"),
        (["replay", "7", "--since", "2h"], 1, "no webhook 7"),
        (["replay", "1"], 2, "either --since TIME and what goes with it, or --cancel"),
        (["replay", "1", "--cancel", "--failed"], 2, "either --since TIME and what goes with it, or --cancel"),
        (["replay", "1", "--since", "0001-01-01T00:00:00+14:00"], 1, "the database refuses: invalid input"),
        (["account", "add", "\udcff", "--plan", "medium"], 1, "the database refuses: invalid input"),
        (["webhook", "set", "1", "rate=NaN"], 1, "rate between 0.001 and 100000"),
        (["webhook", "set", "1", "rate=1", "rate=2"], 2, "given twice"),
        (["webhook", "set", "1", 'headers={"X-A": "\\u0000"}'], 1, "the database refuses: unsupported Unicode escape"),
        (["webhook", "test", "1", "--wait", "nan"], 2, "is no number"),
        (["replay", "1", "--since", "yesterday"], 2, "is no time"),
        (["replay", "1", "--since", "2026-03-01T12:00:00"], 2, "has no time zone"),
        (["replay", "1", "--since", "2026-02-30T12:00:00Z"], 2, "is no time"),
        (["replay", "1", "--since", "1h", "--until", "2h"], 1, "nothing can have happened"),
        (["replay", "1", "--since", "2h", "--rate", "0"], 2, "is not in the range"),
    ],
)
async def test_faults_are_told_in_a_sentence(arguments: list[str], code: int, sentence: str, shop: Shop, bisd: Run) -> None:
    """What cannot be done is refused with the reason, the exit status of the interface, and nothing on standard output."""
    await shop.subscribe("order/paid", URL)
    ran = bisd(*arguments)
    assert (code, "") == (ran.returncode, ran.stdout)
    assert sentence in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


async def test_a_test_shows_the_answer(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, bisd: Run) -> None:
    """`webhook test` prints what the receiver answered, and exits 0 only if it took it; without a daemon it says so."""
    await shop.subscribe("notification/sent", receiver.url, enable=False)
    alone = bisd("webhook", "test", "1", "--wait", "1")
    assert (1, True) == (alone.returncode, "`bisd run`" in alone.stderr)
    async with running(configure(ca_file), dsn):
        await receiver.received(1)
        receiver.statuses = [418]
        refused = await asyncio.to_thread(bisd, "webhook", "test", "1", "--json")
        taken = await asyncio.to_thread(bisd, "webhook", "test", "1")
    assert (1, 418, "failed") == (refused.returncode, *(json.loads(refused.stdout)[name] for name in ("status", "verdict")))
    assert 0 == taken.returncode
    assert "delivered" in taken.stdout


async def test_again_and_not_any_more(shop: Shop, bisd: Run) -> None:
    """Retry, cancel and replay say how many; a replay is taken back by --cancel."""
    for url in (URL, URL + "2"):
        await shop.subscribe("notification/create", url)
    await shop.notify(3)
    assert "is due to 2 webhook(s) now" in bisd("delivery", "retry", "1").stdout
    assert "not owed to 1 webhook(s) any more" in bisd("delivery", "cancel", "1", "--webhook", "2").stdout
    assert "not owed to 1 webhook(s) any more" in bisd("delivery", "cancel", "1").stdout
    assert [("cancelled", 0, None, None)] * 2 == (await shop.statuses())[:2]
    assert "is due to 2 webhook(s) now" in bisd("delivery", "retry", "1").stdout
    await shop.connection.execute("delete from bisd.delivery")
    hour = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert {"replayed": 3} == told(bisd, "replay", "1", "--since", hour, "--rate", "10")
    assert {"replayed": 0} == told(bisd, "replay", "1", "--since", "1h")
    assert "3 deliveries to webhook 1 were taken back" in bisd("replay", "1", "--cancel").stdout
    assert 0 == await shop.owed()
