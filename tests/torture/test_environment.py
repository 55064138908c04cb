"""What the daemon's host can do to it while it runs: no descriptor is left, or the clock jumps."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TextIO

import psutil
import pytest
from aiohttp import web

from tests.support.daemon import Process
from tests.support.receiver import Receiver
from tests.support.sales import selling
from tests.support.shop import Shop, eventually

_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[TextIO]:
    """Says what the daemon's wall clock is ahead by; its other clocks are as ever."""
    with (tmp_path / "clock").open("w") as clock:
        _jump(clock, "+0")
        yield clock


def _jump(clock: TextIO, ahead: str) -> None:
    clock.seek(0)
    clock.truncate()
    clock.write(ahead)
    clock.flush()


@pytest.fixture
async def daemon(dsn: str, ca_file: Path, tmp_path: Path, clock: TextIO) -> AsyncIterator[Process]:
    environment = {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": clock.name,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    daemon = Process(
        tmp_path, dsn, ca_file, BISD_DELIVERY_EXPIRES_AFTER="30m", **(environment if _FAKETIME is not None else {})
    )
    async with daemon.in_order():
        yield daemon


def _lines(daemon: Process, event: str) -> list[dict[str, str]]:
    return [line for line in map(json.loads, daemon.log.splitlines()) if line["event"] == event]


async def _says(daemon: Process, event: str) -> bool:
    return bool(_lines(daemon, event))


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _nothing_put_off(shop: Shop) -> bool:
    """What was put off for half a minute is due now."""
    await shop.connection.execute(
        "update bisd.delivery set due_at = now(), txid = pg_current_xact_id() where due_at > now() + interval '5 seconds'"
    )
    return await shop.owed() == 0


async def test_no_descriptor_is_left(shop: Shop, dsn: str, receiver: Receiver, daemon: Process) -> None:
    """Not one more file may be opened, from one moment to the next, and meanwhile its sessions of the database end too. It
    lives, holds it against nobody, and delivers within seconds once it may open files again."""

    async def answer(_: web.Request) -> web.StreamResponse:
        response = web.Response()
        response.force_close()
        return response

    receiver.answer = answer
    process = psutil.Process(daemon.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    async with selling(shop, dsn, receiver) as sales:
        await receiver.received(50)
        process.rlimit(psutil.RLIMIT_NOFILE, (0, hard))
        await eventually(lambda: _says(daemon, "outage"))
        await shop.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name like 'bisd%'"
        )
        await eventually(lambda: _says(daemon, "database_lost"))
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
        well_at = monotonic()
        seconds = await sales.fresh(well_at)
    await eventually(lambda: _nothing_put_off(shop))
    assert set() == sales.missing()
    print(
        f"\nno descriptors: delivers after {seconds:.2f} s; of {len(sales.committed)} sales {len(sales.repeated())} came again"
    )
    assert seconds < 5
    assert [] == sales.repeated()
    verdicts = await shop.connection.fetch("select distinct number, verdict::text, code from bisd.attempt order by 2")
    assert [(1, "delivered", None), (None, "postponed", "network")] == [tuple(row) for row in verdicts]


@pytest.mark.skipif(_FAKETIME is None, reason="libfaketime is not installed (Debian: faketime)")
async def test_the_clock_jumps(shop: Shop, receiver: Receiver, daemon: Process, clock: TextIO) -> None:
    """By an hour and by a day, forward and back: what is owed goes out at once, is retried when it should be, and expires no
    sooner; and what is signed bears the database's time."""
    await shop.subscribe("notification/create", receiver.url)
    jumps = {"+0": 0, "+1h": 1, "-1h": -1, "+1d": 24, "-1d": -24, "-0": 0}
    for number, jump in enumerate(jumps):
        receiver.statuses = [500]
        _jump(clock, jump)
        committed_at = monotonic()
        await shop.notify()
        first, again = (await receiver.received(2 * number + 2))[-2:]
        print(f"\n{jump}: after {first.at - committed_at:.3f} s, again after {again.at - first.at:.3f} s", end="")
        assert first.id == again.id
        assert first.at - committed_at < 1.0
        assert 0.29 < again.at - first.at < 1.3
        assert all(abs(int(got.headers["webhook-timestamp"]) - time.time()) < 5 for got in (first, again))
    await eventually(lambda: _nothing_owed(shop))
    assert [("delivered", 2, 200, None)] * len(jumps) == await shop.statuses()
    told = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in _lines(daemon, "attempt_failed")]
    assert list(jumps.values()) == [round((at - time.time()) / timedelta(hours=1).total_seconds()) for at in told]
