"""bisd status: what an operator sees at three in the morning, from the database alone."""

from __future__ import annotations

import itertools
import json
import os
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bisd.cli.status import spans
from tests.support.cli import Run
from tests.support.daemon import configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


async def test_nothing_runs_and_nothing_is_owed(shop: Shop, bisd: Run) -> None:
    """Which is said, and what would help."""
    process = bisd("status")
    assert (0, "No daemon runs: bisd run\n") == (process.returncode, process.stderr)
    assert ["Owed: nothing.", "Webhooks: none."] == process.stdout.splitlines()
    seen = json.loads(bisd("status", "--json").stdout)
    assert ([], list(range(64)), 0, True) == (
        seen["daemons"],
        seen["unowned"],
        seen["backlog"]["owed"],
        seen["backlog"]["exact"],
    )


async def test_who_owns_what_and_who_fails(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, bisd: Run) -> None:
    """The daemon by its process and host, all shards; what waits, since when; and the webhook that fails."""
    failing = await shop.subscribe("notification/create", receiver.url)
    await shop.subscribe("notification/sent", receiver.url, enable=False)
    receiver.statuses = [500] * 1000
    async with running(configure(ca_file), dsn):
        await shop.notify(8)
        await eventually(lambda: _is_parked(shop))
        seen = json.loads(bisd("status", "--json").stdout)
        shown = bisd("status").stdout
    (daemon,) = seen["daemons"]
    assert (f"bisd {os.getpid()} {socket.gethostname()}"[:63], list(range(64)), []) == (
        daemon["name"], daemon["shards"], seen["unowned"])  # fmt: skip
    assert {"parked": 1, "off": 1} == seen["webhooks"]
    assert [(failing, shop.account_id)] == [(one["id"], one["account_id"]) for one in seen["failing"]]
    assert (1, True) == (seen["backlog"]["webhooks"], seen["backlog"]["owed"] > 0)
    assert ("0-63" in shown, "Webhooks: 1 off, 1 parked." in shown, "to 1 webhooks" in shown) == (True, True, True)


async def _is_parked(shop: Shop) -> bool:
    return bool(await shop.connection.fetchval("select exists (select from bisd.webhook where next_probe_at is not null)"))


async def test_more_than_are_counted_are_estimated(shop: Shop, bisd: Run) -> None:
    """A backlog of any size is told at once, and that it is about so many."""
    webhook_id = await shop.subscribe("t", "https://example.com/")
    await shop.connection.execute(
        "insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes) "
        "select $1, n, now(), 2 from generate_series(1, 20000) n",
        webhook_id,
    )
    await shop.connection.execute("analyze bisd.delivery")
    seen = json.loads(bisd("status", "--json").stdout)["backlog"]
    assert (20_000, False, 1) == (seen["owed"], seen["exact"], seen["webhooks"])
    assert "about 20,000 to 1 webhooks; the oldest due for" in bisd("status").stdout


@given(st.sets(st.integers(0, 63)))
def test_shards_are_written_as_a_person_would(shards: set[int]) -> None:
    """Every one of them, once, in order, and neighbours together."""
    runs = [run.split("-") for run in spans(sorted(shards)).split(", ") if run]
    numbers = [list(range(int(run[0]), int(run[-1]) + 1)) for run in runs]
    assert sorted(shards) == [number for run in numbers for number in run]
    assert all(after[0] - before[-1] > 1 for before, after in itertools.pairwise(numbers))
