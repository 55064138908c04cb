"""bisd status: what an operator sees at three in the morning, from the database alone."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bisd.cli.status import spans
from tests.support.cli import Run
from tests.support.daemon import configure, running
from tests.support.link import Link
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


async def test_nothing_runs_and_nothing_is_owed(shop: Shop, bisd: Run) -> None:
    """Which is said, and what would help."""
    process = bisd("status")
    assert (0, "") == (process.returncode, process.stderr)
    assert ["No daemon runs: bisd run", "Owed: nothing.", "Webhooks: none."] == [
        line for line in process.stdout.splitlines() if not line.startswith("Last ")
    ]
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


async def test_what_the_last_minute_brought(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, bisd: Run) -> None:
    """How many attempts were taken, and how many were not; what was settled without a POST is none, and what was before that
    minute is over."""
    await shop.subscribe("notification/create", receiver.url)
    await shop.connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, total_ms) "
        "values (7, 1, now() - interval '62 seconds', now(), 1, 'delivered', 200, 1500), "
        "(8, 1, now() - interval '62 seconds', now(), 1, 'failed', 200, 30000), "
        "(9, 1, now(), now(), null, 'cancelled', null, null)"
    )
    receiver.statuses = [500]
    async with running(configure(ca_file), dsn):
        await shop.notify(3)
        await receiver.received(4)
    recent = json.loads(bisd("status", "--json").stdout)["recent"]
    assert {"delivered": 3, "failed": 2} == {name: recent[name] for name in ("delivered", "failed")}
    assert ": 3 delivered (0/s), 2 attempts failed." in bisd("status").stdout


async def test_more_than_is_read_is_told_by_its_end(shop: Shop, bisd: Run) -> None:
    """Where the last minute is more than is read at once, it is the rate of as much as is; and the seconds are said."""
    await shop.connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, total_ms) "
        "select n, 1, now() - (60000 - n) * interval '1 millisecond', now(), 1, 'delivered', 200, 0 "
        "from generate_series(1, 60000) n"
    )
    recent = json.loads(bisd("status", "--json").stdout)["recent"]
    read, seconds = recent["delivered"], recent["seconds"]
    assert (True, True) == (10_000 < read < 55_000, abs(read / 1000 - seconds) < 5)


class Terminal:
    """What a program writes to a terminal."""

    def __init__(self, descriptor: int) -> None:
        self.written = ""
        self._descriptor = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            self.written += os.read(self._descriptor, 1 << 16).decode("utf-8", "replace")
        except OSError:  # the program has ended
            self.close()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)

    async def shows(self, text: str) -> None:
        """Waits until it is written anew."""
        self.written = ""

        async def shown() -> bool:
            return text in self.written

        await eventually(shown, 30)


@asynccontextmanager
async def watching(dsn: str, *options: str) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bisd", "status", "--watch", *options, stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"BISD_DATABASE_DSN": dsn, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    terminal = Terminal(ours)
    try:
        yield terminal, process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        terminal.close()
        os.close(ours)


async def test_watching_outlives_the_database(shop: Shop, dsn: str) -> None:
    """It draws over what it drew, on a screen of its own; while the database does not answer it says so, and shows what it saw;
    then it goes on. Ctrl-C ends it: the screen is as it was, and the exit status 0."""
    link = Link(dsn)
    await link.start()
    async with watching(link.dsn) as (terminal, process):
        await terminal.shows("Owed: nothing.")
        link.freeze()
        await terminal.shows("The database does not answer")
        assert ("What follows was seen at" in terminal.written, "Owed: nothing." in terminal.written) == (True, True)
        assert "\x1b[2J" not in terminal.written
        link.thaw()
        await shop.subscribe("t", "https://example.com/")
        await terminal.shows("Webhooks: 1 well.")
        process.send_signal(signal.SIGINT)
        assert 0 == await process.wait()
        await eventually(lambda: _ends(terminal))
    await link.stop()
    assert "Traceback" not in terminal.written


async def _ends(terminal: Terminal) -> bool:
    return "\x1b[?1049l" in terminal.written


async def test_watching_for_a_program(shop: Shop, dsn: str) -> None:
    """One JSON object in a line, again and again."""
    async with watching(dsn, "--json") as (terminal, _):
        await eventually(lambda: _has_lines(terminal, 2))
    lines = terminal.written.splitlines()[:2]
    assert [0, 0] == [json.loads(line)["backlog"]["owed"] for line in lines]


async def _has_lines(terminal: Terminal, number: int) -> bool:
    return terminal.written.count("\n") >= number


@given(st.sets(st.integers(0, 63)))
def test_shards_are_written_as_a_person_would(shards: set[int]) -> None:
    """Every one of them, once, in order, and neighbours together."""
    runs = [run.split("-") for run in spans(sorted(shards)).split(", ") if run]
    numbers = [list(range(int(run[0]), int(run[-1]) + 1)) for run in runs]
    assert sorted(shards) == [number for run in numbers for number in run]
    assert all(after[0] - before[-1] > 1 for before, after in itertools.pairwise(numbers))
