"""Somebody changes the schema under a daemon that runs: it says what the matter is, keeps what it knows, and goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.daemon import Process
from tests.support.face import Face
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


@pytest.fixture
async def daemon(dsn: str, ca_file: Path, tmp_path: Path) -> AsyncIterator[Process]:
    daemon = Process(tmp_path, dsn, ca_file, BISD_HTTP_LISTEN=f"unix:{tmp_path / 'http'}")
    await daemon.start()
    yield daemon
    await daemon.kill()


def _refusals(daemon: Process) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    return [(line["what"], line["error"]) for line in lines if line["event"] == "database_refuses"]


@pytest.mark.parametrize(
    ("change", "repair", "what", "error"),
    [
        (
            "alter table bisd.attempt rename column status to stat",
            "alter table bisd.attempt rename column stat to status",
            "writeback", "UndefinedColumnError",
        ),
        (
            "alter table bisd.attempt add constraint wrong check (number > 1000) not valid",
            "alter table bisd.attempt drop constraint wrong",
            "writeback", "CheckViolationError",
        ),
        (
            "alter table bisd.webhook rename column url to uri",
            "alter table bisd.webhook rename column uri to url",
            "intake", "UndefinedColumnError",
        ),
        (
            "alter function bisd.members rename to member",
            "alter function bisd.member rename to members",
            "intake", "UndefinedFunctionError",
        ),
    ],
    ids=["a column of what is written", "a constraint on it", "a column of what is read", "a function"],
)  # fmt: skip
async def test_a_schema_that_is_changed_is_waited_for(
    change: str, repair: str, what: str, error: str, shop: Shop, receiver: Receiver, daemon: Process, tmp_path: Path
) -> None:
    """What was sent meanwhile is written when the schema is as it was, what was not is sent, and nothing twice. The log has it
    once, /readyz says why nothing goes on, and the daemon is the same process."""
    await shop.subscribe("notification/create", receiver.url)
    await shop.notify()
    await eventually(lambda: _settled(shop))
    await shop.connection.execute(change)
    await shop.connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'bisd %'")
    await shop.notify(5)
    await eventually(lambda: _refused(daemon))
    face = Face(tmp_path / "http")
    ready = await face.get("/readyz")
    assert (503, True) == (ready.status, any("refuses what we ask" in reason for reason in ready.json["reasons"]))
    before = await face.samples()
    await eventually(lambda: _tried(face, before))
    await shop.connection.execute(repair)
    await eventually(lambda: _settled(shop))
    await eventually(lambda: _ready(face))
    assert [(what, error)] == _refusals(daemon)
    assert 6 == len(receiver.requests) == len(receiver.ids())
    assert [("delivered", 1, 200, None)] * 6 == await shop.statuses()
    assert 0 == await asyncio.wait_for(daemon.stop(), 20)


async def _settled(shop: Shop) -> bool:
    return await shop.owed() == 0


async def _refused(daemon: Process) -> bool:
    return bool(_refusals(daemon))


async def _ready(face: Face) -> bool:
    return (await face.get("/readyz")).status == 200


async def _tried(face: Face, before: dict[str, float]) -> bool:
    """It has tried three times more, which takes its time."""
    now = await face.samples()
    tries = [
        sum(value for name, value in one.items() if name.startswith("bisd_database_connects_total")) for one in (before, now)
    ]
    return tries[1] - tries[0] >= 3
