"""What the daemon tells systemd of itself, when it keeps silent, and how it ends; and the units that start it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from bisd import systemd, vigil, vitals
from bisd.config import Config
from bisd.vigil import Vigil
from tests.support.daemon import configure, running
from tests.support.deployment import Deployment, Lines
from tests.support.link import Link
from tests.support.manager import Unit, manager
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

UNITS = Path(__file__).parent.parent / "systemd"
NOWHERE = "postgresql://127.0.0.1:9/shop"


@pytest.fixture
def deployment(tmp_path: Path, ca_file: Path, dsn: str) -> Deployment:
    return Deployment(tmp_path / "shop.toml", ca_file, dsn)


def _block(seconds: float) -> None:
    """As a fault would: nothing else runs in this thread."""
    time.sleep(seconds)


async def _settled(shop: Shop) -> bool:
    return await shop.owed() == 0


async def test_the_order_of_a_life(deployment: Deployment, tmp_path: Path) -> None:
    """READY, WATCHDOG again and again within the time that is granted, RELOADING with the time of now and then READY, STOPPING
    with the time that it needs; the status says what is going on."""
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file, WATCHDOG_USEC="1500000") as unit:
            ready = await said.hears("READY")
            await said.hears("WATCHDOG", 3)
            before = time.monotonic()
            unit.send(signal.SIGHUP)
            reloading = await said.hears("RELOADING")
            await said.hears("READY", 2)
            watched = len(said.named("WATCHDOG"))
            await said.hears("STATUS")
            last = await said.hears("WATCHDOG", watched + 2)
            unit.send(signal.SIGTERM)
            stopping = await said.hears("STOPPING")
            assert 0 == await unit.ended()
    assert ["READY", "WATCHDOG", "RELOADING", "READY", "WATCHDOG", "STOPPING"] == said.order()
    assert before <= int(reloading.states["MONOTONIC_USEC"]) / 1e6 <= reloading.at
    assert 36_000_000 == int(stopping.states["EXTEND_TIMEOUT_USEC"])
    assert "delivering 0/s, 0 parked, backlog 0" == said.named("STATUS")[-1].states["STATUS"]
    times = [ready.at, *(one.at for one in said.named("WATCHDOG") if one.at <= last.at)]
    assert max(after - before for before, after in pairwise(times)) < 1.5


async def test_no_watchdog_unless_it_is_asked_for(deployment: Deployment, tmp_path: Path) -> None:
    """Without WATCHDOG_USEC, or with that of another process, nothing is said of it."""
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file, WATCHDOG_USEC="300000", WATCHDOG_PID="1"):
            await said.hears("STATUS")
    assert [] == said.named("WATCHDOG")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
    ],
)
def test_what_the_watchdog_grants(environment: dict[str, str], seconds: float | None) -> None:
    """As sd_watchdog_enabled(3) reads it: microseconds, for the process that is named, if one is."""
    assert seconds == systemd.watchdog(environment, 42)


async def test_the_watchdog_stops_while_the_loop_is_blocked(
    shop: Shop, ca_file: Path, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Something in the daemon runs for three times what is granted: nothing is said meanwhile, nor in the round after it, so
    that systemd would have ended it; when all is well again, that is said again."""
    lines = Lines(capsys)
    with manager(tmp_path) as said:
        monkeypatch.setenv("NOTIFY_SOCKET", str(said.path))
        monkeypatch.setenv("WATCHDOG_USEC", "900000")
        async with running(configure(ca_file), dsn):
            await said.hears("WATCHDOG", 2)
            began = time.monotonic()
            _block(2.7)
            ended = time.monotonic()
            heard = len(said.named("WATCHDOG"))
            await said.hears("WATCHDOG", heard + 2)
    silent = [one.at for one in said.named("WATCHDOG") if began + 0.1 <= one.at <= ended + 0.2]
    assert [] == silent
    (stalled,) = lines.named("stalled")
    assert ([], True) == (stalled["loops"], 2 < stalled["lag"] < 5)


async def test_the_watchdog_stops_when_a_loop_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that stands still is named once, and the watchdog hears nothing until it turns."""
    lines = Lines(capsys)
    stalled: list[str] = []
    with manager(tmp_path) as said:
        monkeypatch.setenv("NOTIFY_SOCKET", str(said.path))
        watching = asyncio.ensure_future(Vigil(stalled.copy, str, float, {"WATCHDOG_USEC": "300000"}).run())
        await said.hears("WATCHDOG")
        stalled.append("writeback")
        await lines.have("stalled")
        heard = len(said.named("WATCHDOG"))
        began = time.monotonic()
        await eventually(lambda: _passed(began, 0.5))
        assert heard == len(said.named("WATCHDOG"))
        stalled.clear()
        await said.hears("WATCHDOG", heard + 1)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert [["writeback"]] == [line["loops"] for line in lines.named("stalled")]


async def _passed(began: float, seconds: float) -> bool:
    return time.monotonic() - began >= seconds


async def test_the_watchdog_needs_no_descriptors(deployment: Deployment, tmp_path: Path) -> None:
    """A daemon that may not open one file more goes on saying that it is alive, and how it is."""
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file, WATCHDOG_USEC="900000") as unit:
            await said.hears("READY")
            process = psutil.Process(unit.pid)
            before = process.rlimit(psutil.RLIMIT_NOFILE)
            process.rlimit(psutil.RLIMIT_NOFILE, (3, before[1]))
            await said.hears("WATCHDOG", len(said.named("WATCHDOG")) + 8)
            await said.hears("STATUS", len(said.named("STATUS")) + 1)
            process.rlimit(psutil.RLIMIT_NOFILE, before)
            unit.send(signal.SIGTERM)
            assert await unit.ended() == 0


async def test_the_watchdog_does_not_mind_the_database(
    shop: Shop, receiver: Receiver, dsn: str, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses everybody for longer than a loop may stand still (here three seconds), while an outcome is to be
    written: the watchdog hears that all is well, and the status what is waited for. Then all goes on."""
    monkeypatch.setattr(vitals, "_STALLED", 3.0)
    monkeypatch.setattr(vigil, "_TELL_EVERY", 0.5)
    await shop.subscribe("notification/create", receiver.url)
    away = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await away.wait()
        return web.Response()

    receiver.answer = answer
    link = Link(dsn)
    await link.start()
    with manager(tmp_path) as said:
        monkeypatch.setenv("NOTIFY_SOCKET", str(said.path))
        monkeypatch.setenv("WATCHDOG_USEC", "900000")
        async with running(configure(ca_file), link.dsn):
            await shop.notify()
            await receiver.received(1)
            await link.stop()
            away.set()
            await said.hears("STATUS", text="waiting for the database, 1 to be written")
            began, heard = time.monotonic(), len(said.named("WATCHDOG"))
            await eventually(lambda: _passed(began, 5.0))
            watched = len(said.named("WATCHDOG")) - heard
            await link.start()
            await eventually(lambda: _settled(shop))
            await said.hears("STATUS", text="delivering")
    await link.stop()
    assert watched >= 10


async def test_a_start_without_a_database_asks_for_time(deployment: Deployment, tmp_path: Path) -> None:
    """Again and again, and says what it waits for; it is not ready."""
    deployment.set("database", dsn=NOWHERE)
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file):
            waiting = await said.hears("STATUS", 2, text="waiting for the database")
    assert ("waiting for the database (ConnectionRefusedError)", "60000000") == (
        waiting.states["STATUS"],
        waiting.states["EXTEND_TIMEOUT_USEC"],
    )
    assert [] == said.named("READY")


async def test_ready_only_once_it_has_looked(shop: Shop, deployment: Deployment, tmp_path: Path) -> None:
    """Connected, with the right schema, but what is owed cannot be read yet: it is not ready, and when it can be, it is."""
    locking = shop.connection.transaction()
    await locking.start()
    await shop.connection.execute("lock table bisd.delivery in access exclusive mode")
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file):
            await said.hears("STATUS", text="waiting for the database, 0 to be written")
            before = said.named("READY")
            await locking.rollback()
            await said.hears("READY")
    assert [] == before


@pytest.mark.parametrize("moment", ["idle", "loaded", "twice", "starting", "reloading"])
async def test_told_to_stop(moment: str, shop: Shop, receiver: Receiver, deployment: Deployment, tmp_path: Path) -> None:
    """Whenever it is told to, it ends with 0 and says nothing more after STOPPING but how far it is; what it sent is written,
    and what was cut short at the second word is owed as if it had never been sent."""
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    released = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    receiver.answer = answer
    if moment == "starting":
        deployment.set("database", dsn=NOWHERE)
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file) as unit:
            await said.hears("STATUS" if moment == "starting" else "READY")
            if moment in ("loaded", "twice"):
                await shop.notify(3)
                await receiver.received(3)
            if moment == "reloading":
                for _ in range(3):
                    unit.send(signal.SIGHUP)
            unit.send(signal.SIGTERM)
            if moment != "starting":
                await said.hears("STOPPING")
            if moment == "twice":
                unit.send(signal.SIGTERM)
            else:
                released.set()
            assert 0 == await unit.ended()
    released.set()
    stopped = {"loaded": [("delivered", 1, 200, None)] * 3, "twice": [("pending", 0, None, None)] * 3}
    assert stopped.get(moment, []) == await shop.statuses()
    assert moment == "starting" or said.order()[-1] == "STOPPING"
    assert await shop.connection.fetchval("select enabled from bisd.webhook where id = $1", webhook_id)


async def test_logs_that_nobody_takes(shop: Shop, receiver: Receiver, deployment: Deployment, tmp_path: Path) -> None:
    """The disk for them is full: it delivers, reloads and ends as ever."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500]
    with manager(tmp_path) as said:
        async with Unit(said, deployment.file, log=Path("/dev/full")) as unit:
            await said.hears("READY")
            await shop.notify(20)
            await eventually(lambda: _settled(shop))
            unit.send(signal.SIGHUP)
            await said.hears("READY", 2)
            unit.send(signal.SIGTERM)
            assert 0 == await unit.ended()
    assert 20 == len(receiver.ids())


async def test_a_manager_that_reads_nothing_is_not_waited_for(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is full: a word is lost, and a moment, not the daemon."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        while systemd.notify("WATCHDOG=1"):
            pass
        began = time.monotonic()
        assert not systemd.notify("WATCHDOG=1")
        assert time.monotonic() - began < 1.0


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30)


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
UNIT_FILES = ["bisd.service", "bisd@.service"]


def _directives(name: str) -> list[str]:
    lines = (UNITS / name).read_text(encoding="utf-8").partition("[Unit]")[2].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@needs_systemd
@pytest.mark.parametrize("name", UNIT_FILES)
def test_a_unit_is_what_systemd_takes(name: str, tmp_path: Path) -> None:
    """systemd-analyze verify has nothing to say, once a program (here another one) lies where the unit says."""
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text(encoding="utf-8").replace("/opt/bisd/bin/bisd", "/bin/true"))
    verified = _analyze("verify", str(unit))
    assert (0, "", "") == (verified.returncode, verified.stdout, verified.stderr)


@needs_systemd
@pytest.mark.parametrize("name", UNIT_FILES)
def test_a_unit_may_do_next_to_nothing(name: str) -> None:
    """systemd-analyze security: 1.1 at most, without IPAddressDeny and RootDirectory, which depend on the host."""
    scored = _analyze("security", "--offline=true", "--threshold=11", str(UNITS / name))
    assert 0 == scored.returncode, scored.stdout


@needs_systemd
def test_user_and_directory_are_what_systemd_takes(tmp_path: Path) -> None:
    """systemd-sysusers and systemd-tmpfiles make the user and the directory that the units run with."""
    (tmp_path / "etc").mkdir()
    for kind, *options in (("sysusers",), ("tmpfiles", "--create")):
        directory = tmp_path / f"usr/lib/{kind}.d"
        directory.mkdir(parents=True)
        shutil.copy(UNITS / f"bisd.{kind}.conf", directory / "bisd.conf")
        command = [f"systemd-{kind}", "--root", str(tmp_path), *options, "bisd.conf"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert 0 == made.returncode, made.stderr
    user = (tmp_path / "etc/passwd").read_text().split(":")
    made_directory = (tmp_path / "etc/bisd").stat()
    assert ("bisd", "/usr/sbin/nologin\n") == (user[0], user[-1])
    assert (0o750, int(user[3])) == (made_directory.st_mode & 0o777, made_directory.st_gid)


def test_the_units_differ_by_their_names_alone() -> None:
    """The single one is the template, with its name where the template has the instance's."""
    template = [line.replace(" (%i)", "").replace("%i.", "bisd.") for line in _directives("bisd@.service")]
    assert template == _directives("bisd.service")


@pytest.mark.parametrize(
    "directive",
    [
        "Type=notify",
        "NotifyAccess=main",
        "ExecReload=kill -HUP $MAINPID",
        "WatchdogSec=30",
        "Restart=always",
        "RestartPreventExitStatus=2",
        "SocketBindDeny=any",
        "SocketBindAllow=tcp:8747",
    ],
)
def test_a_unit_goes_by_what_the_daemon_does(directive: str) -> None:
    """It speaks the protocol, reloads by SIGHUP, keeps the watchdog, ends with 2 on a wrong configuration, and listens on one
    port at most."""
    assert directive in _directives("bisd.service")


def test_the_drain_is_shorter_than_what_is_granted() -> None:
    """TimeoutStopSec covers an attempt by default, and as long again for writing."""
    (granted,) = [line.partition("=")[2] for line in _directives("bisd.service") if line.startswith("TimeoutStopSec=")]
    assert int(granted) >= 2 * (Config().delivery.timeout.total_seconds() + 1)
