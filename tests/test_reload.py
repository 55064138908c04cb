"""SIGHUP: a running daemon goes by its configuration as it is now, and drops nothing on the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import trustme
from aiohttp import web

from bisd import db, vigil
from bisd.config import Config
from bisd.delivery.lane import END
from bisd.errors import ConfigurationError
from bisd.lanes import Lanes
from bisd.service import Service
from tests.support.daemon import running
from tests.support.deployment import Deployment, Lines
from tests.support.manager import Unit, manager
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually
from tests.support.table import delivery, webhook
from tests.test_lane import LIMITS, lanes_with, sent

Connect = Callable[[], Awaitable[db.Connection]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


@pytest.fixture
def deployment(tmp_path: Path, ca_file: Path, dsn: str) -> Deployment:
    return Deployment(tmp_path / "shop.toml", ca_file, dsn)


class Gate:
    """A receiver's answer that waits until it is opened, and counts what waits."""

    def __init__(self, receiver: Receiver) -> None:
        self.waiting = self.most = 0
        self.connections: list[asyncio.Transport] = []
        self._open = asyncio.Event()
        receiver.answer = self._answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if request.transport is not None and request.transport not in self.connections:
            self.connections.append(request.transport)
        await self._open.wait()
        self.waiting -= 1
        return web.Response()

    def open(self) -> None:
        self._open.set()

    async def holds(self, number: int) -> bool:
        return self.waiting == number


async def _reload(service: Service, lines: Lines) -> None:
    """Waits until it has come to something."""
    number = len(lines.named("reloaded")) + 1
    service.reload()
    await lines.have("reloaded", number)


async def _settled(shop: Shop) -> bool:
    return await shop.owed() == 0


async def test_what_is_in_flight_ends_as_it_began(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """Three requests are under way when everything of the client changes: each is answered on its own connection and counts as
    delivered, at the first attempt; what comes after goes over another connection, and the old one is closed."""
    await shop.subscribe("notification/create", receiver.url)
    gate = Gate(receiver)
    async with deployment.running() as service:
        await shop.notify(3)
        await eventually(lambda: gate.holds(3))
        deployment.set("delivery", timeout="9s", connect_timeout="3s", max_response_bytes=0)
        await _reload(service, lines)
        old = list(gate.connections)
        await shop.notify()
        await eventually(lambda: gate.holds(4))
        gate.open()
        await eventually(lambda: _settled(shop))
        await eventually(lambda: _closed(old))
        assert (3, 4) == (len(old), len(gate.connections))
    assert [("delivered", 1, 200, None)] * 4 == await shop.statuses()
    assert [1] * 4 == list(receiver.ids().values())


async def _closed(connections: list[asyncio.Transport]) -> bool:
    return all(connection.is_closing() for connection in connections)


async def test_the_longest_attempt_is_waited_for(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """It began under a timeout of 15 s; that of now is one of 100 ms. Told to stop, the daemon still waits for its answer."""
    await shop.subscribe("notification/create", receiver.url)
    gate = Gate(receiver)
    async with deployment.running() as service:
        await shop.notify()
        await eventually(lambda: gate.holds(1))
        deployment.set("delivery", timeout="100ms", connect_timeout="100ms")
        await _reload(service, lines)
        asyncio.get_running_loop().call_later(1.5, gate.open)
    assert [("delivered", 1, 200, None)] == await shop.statuses()


async def test_authorities_are_read_again(
    shop: Shop, deployment: Deployment, ca_file: Path, lines: Lines, tmp_path: Path
) -> None:
    """Same key, same file, other certificates in it: a receiver that was of no authority is delivered to."""
    another = trustme.CA()
    file = tmp_path / "ca.pem"
    shutil.copy(ca_file, file)
    deployment.set("egress", ca_file=str(file))
    receiver = Receiver(another)
    await receiver.start()
    try:
        await shop.subscribe("notification/create", receiver.url)
        async with deployment.running() as service:
            await shop.notify()
            await eventually(lambda: _settled(shop))
            another.cert_pem.write_to_path(str(file))
            await _reload(service, lines)
            await shop.notify()
            await eventually(lambda: _settled(shop))
    finally:
        await receiver.stop()
    assert [("failed", 3, None, "tls_untrusted"), ("delivered", 1, 200, None)] == await shop.statuses()


async def test_egress_changes(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """A network that is denied from now on is not dialled from now on, though a connection to it was open."""
    await shop.subscribe("notification/create", receiver.url)
    async with deployment.running() as service:
        await shop.notify()
        await eventually(lambda: _settled(shop))
        deployment.set("egress", deny=["127.0.0.1/32"])
        await _reload(service, lines)
        await shop.notify()
        await eventually(lambda: _settled(shop))
    assert [("delivered", 1, 200, None), ("refused", 0, None, "refused_url")] == await shop.statuses()


async def test_the_schedule_changes(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """Failures from now on go by the new schedule, the new number of attempts and the new idea of success."""
    deployment.set("retry", schedule=["1h"])
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500, 503, 503, 204]
    async with deployment.running() as service:
        await shop.notify()
        await lines.have("attempt_failed")
        deployment.set("retry", schedule=["10ms"], max_attempts=2)
        deployment.set("delivery", success=[200, 204])
        await _reload(service, lines)
        await shop.notify()
        await eventually(lambda: _owes_one(shop))
        await shop.notify()
        await receiver.received(4)
        await eventually(lambda: _owes_one(shop))
    assert [("retrying", 1, 500, "status"), ("failed", 2, 503, "status"), ("delivered", 1, 204, None)] == await shop.statuses()


async def _owes_one(shop: Shop) -> bool:
    return await shop.owed() == 1


@pytest.mark.parametrize(("webhooks", "key"), [(1, "max_in_flight_per_webhook"), (6, "max_in_flight")])
async def test_fewer_in_flight(
    webhooks: int, key: str, shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines
) -> None:
    """Six are in flight, to one webhook or to six, when the limit becomes one: they end, and from then on there is one at a
    time."""
    deployment.set("delivery", max_in_flight=1000, max_in_flight_per_webhook=6 // webhooks)
    for number in range(webhooks):
        await shop.subscribe("notification/create", f"{receiver.url}{number}")
    gate = Gate(receiver)
    async with deployment.running() as service:
        await shop.notify(12 // webhooks)
        await eventually(lambda: gate.holds(6))
        deployment.set("delivery", **{key: 1})
        await _reload(service, lines)
        gate.open()
        await eventually(lambda: _settled(shop))
        again = Gate(receiver)
        await shop.notify(12 // webhooks)
        await eventually(lambda: again.holds(1))
        again.open()
        await eventually(lambda: _settled(shop))
    assert (6, 1) == (gate.most, again.most)
    assert [("delivered", 1, 200, None)] * 24 == await shop.statuses()


async def test_more_in_flight(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """One was in flight at a time to anybody: once there may be many, all that is owed goes at once."""
    deployment.set("delivery", max_in_flight=1, max_in_flight_per_webhook=1)
    for number in range(4):
        await shop.subscribe("notification/create", f"{receiver.url}{number}")
    gate = Gate(receiver)
    async with deployment.running() as service:
        await shop.notify(2)
        await eventually(lambda: gate.holds(1))
        deployment.set("delivery", max_in_flight=1000)
        await _reload(service, lines)
        await eventually(lambda: gate.holds(4))
        gate.open()
        await eventually(lambda: _settled(shop))
    assert [("delivered", 1, 200, None)] * 8 == await shop.statuses()


@pytest.mark.parametrize(("ceiling", "own", "number"), [(4, None, 4), (1, None, 1), (32, None, 8), (4, 6, 6), (4, 2, 2)])
def test_a_ceiling_holds_for_lanes_that_exist(ceiling: int, own: int | None, number: int) -> None:
    """As many of a lane that has begun with eight may go as are allowed now; a webhook's own setting stands above that."""
    lanes = lanes_with(*(delivery(1, event) for event in range(1, 13)), like=webhook(1, most=own))
    lanes.limit(ceiling, LIMITS, 1000)
    assert list(range(1, number + 1)) == sent(lanes)


def test_who_was_set_aside_goes_when_there_is_room() -> None:
    """Ten lanes of which nothing has been heard, and room for one in doubt: with room for all, all go."""
    lanes = Lanes(8, LIMITS, in_flight=1)
    for number in range(1, 11):
        lanes.put(webhook(number), END)
    lanes.arrive(delivery(number, number) for number in range(1, 11))
    assert 1 == len(sent(lanes))
    lanes.limit(8, LIMITS, 1000)
    assert 9 == len(sent(lanes))


async def test_deactivation_changes(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """A webhook that has been failing for a moment is switched off by the next failure, if that is what is asked for now."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500] * 20
    async with deployment.running() as service:
        await shop.notify()
        await eventually(lambda: _settled(shop))
        assert [] == lines.named("webhook_deactivated")
        deployment.set("deactivation", failing_for="1ms", min_attempts=4)
        await _reload(service, lines)
        await shop.notify()
        await lines.have("webhook_deactivated")
    assert 4 == len(receiver.requests)


async def test_retention_changes(shop: Shop, deployment: Deployment, lines: Lines, connect: Connect) -> None:
    """Days that are past what is kept now are dropped now, not in an hour."""
    other = await connect()
    await other.execute(
        "insert into bisd.event (account_id, topic, body, created_at) values ($1, 'a', '{}', now() - interval '9 d')",
        shop.account_id,
    )
    async with deployment.running() as service:
        await lines.have("partitions_made")
        deployment.set("retention", events="5d")
        await _reload(service, lines)
        await lines.have("partitions_dropped")
    assert 0 == await other.fetchval("select count(*) from bisd.event")


async def test_the_log_changes(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """Bodies and answers are shown from the reload on that asks for them, and not any more after the one that takes it back; no
    key and no signature with them."""
    await shop.subscribe("notification/create", receiver.url)
    async with deployment.running() as service:
        for level, payloads in (("info", True), ("debug", True), ("debug", False)):
            deployment.set("log", level=level, payloads=payloads)
            await _reload(service, lines)
            await shop.notify()
            await eventually(lambda: _settled(shop))
    (shown,) = lines.named("payload")
    assert receiver.requests[1].body.decode() == shown["body"]
    assert (2, "", {"answer", "body", "event", "event_id", "level", "timestamp", "webhook_id"}) == (
        shown["event_id"],
        shown["answer"],
        set(shown),
    )


async def test_what_cannot_change_is_named(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """Another database waits for a restart, and the log says so at every reload; what can change does all the same."""
    await shop.subscribe("notification/create", receiver.url)
    async with deployment.running() as service:
        deployment.set("database", dsn="postgresql://elsewhere.example.com/shop", pool_size=7)
        deployment.set("delivery", max_body_bytes=1)
        await _reload(service, lines)
        await _reload(service, lines)
        await shop.notify()
        await eventually(lambda: _settled(shop))
    keys = [line["keys"] for line in lines.named("configuration_unchanged")]
    assert [["database.dsn", "database.pool_size"]] * 2 == keys
    assert [["delivery.max_body_bytes"], []] == [line["changed"] for line in lines.named("reloaded")]
    assert [("refused", 0, None, "body_too_big")] == await shop.statuses()


def _spoil(name: str, deployment: Deployment, ca_file: Path) -> None:
    """Does something to the configuration that a daemon cannot go by."""
    file, text = deployment.file, deployment.text
    match name:
        case "syntax":
            file.write_text("[delivery\n")
        case "half written":
            file.write_text(text[: text.index("ca_file") + 12])
        case "value":
            deployment.set("delivery", timeout="soon", max_in_flight=0)
        case "unknown key":
            deployment.set("delivery", time_out="5s")
        case "contradiction":
            deployment.set("delivery", timeout="1s", connect_timeout="2s")
        case "gone":
            file.unlink()
        case "directory":
            file.unlink()
            file.mkdir()
        case "FIFO":
            file.unlink()
            os.mkfifo(file)
        case "loop":
            file.unlink()
            file.symlink_to(file)
        case "authorities":
            ca_file.write_text("-----BEGIN CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("syntax", ["{file}"]),
        ("half written", ["{file}"]),
        ("value", ["delivery.max_in_flight", "delivery.timeout"]),
        ("unknown key", ["delivery.time_out"]),
        ("contradiction", ["delivery.connect_timeout"]),
        ("gone", ["{file}"]),
        ("directory", ["{file}"]),
        ("FIFO", ["{file}"]),
        ("loop", ["{file}"]),
        ("authorities", ["egress.ca_file"]),
    ],
)
async def test_a_bad_configuration_changes_nothing(
    name: str, faults: list[str], shop: Shop, receiver: Receiver, tmp_path: Path, ca_file: Path, dsn: str,
    lines: Lines, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever is wrong with it: every fault is in the log, the first of them in the status; deliveries go on by the one
    before, even what is right in the new one does not count. The next good one is taken."""
    authorities = tmp_path / "ca.pem"
    shutil.copy(ca_file, authorities)
    deployment = Deployment(tmp_path / "shop.toml", authorities, dsn)
    monkeypatch.setattr(vigil, "_TELL_EVERY", 0.5)
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500] * 3
    with manager(tmp_path) as systemd:
        monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
        async with deployment.running() as service:
            good = deployment.text
            deployment.set("retry", max_attempts=1)
            _spoil(name, deployment, authorities)
            service.reload()
            refused = await lines.have("reload_refused")
            assert [fault.format(file=deployment.file) for fault in faults] == [
                fault.partition(":")[0] for fault in refused["faults"]
            ]
            assert refused["faults"][0][:200] in (await systemd.hears("STATUS", text="refused")).states["STATUS"]
            await shop.notify()
            await eventually(lambda: _settled(shop))
            if deployment.file.is_dir():
                deployment.file.rmdir()
            deployment.file.unlink(missing_ok=True)
            deployment.file.write_text(good)
            shutil.copy(ca_file, authorities)
            await _reload(service, lines)
            await systemd.hears("STATUS", text="delivering")
    assert [("failed", 3, 500, "status")] == await shop.statuses()
    assert ["RELOADING", "READY"] * 2 == systemd.order()[1:5]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every user can pass through, as pytest's own cannot be."""
    directory = Path(tempfile.mkdtemp(prefix="bisd-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_file_of_another_owner_is_told(open_directory: Path, deployment: Deployment) -> None:
    """Not for us to read: a fault of the file, told by its name and in the system's own words."""
    file = open_directory / "shop.toml"
    file.write_text(deployment.text)
    file.chmod(0o600)
    deployment.file = file
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigurationError, match=f"^{file}: cannot be read: Permission denied$"):
            deployment.read()
    finally:
        os.seteuid(0)


async def test_a_storm_is_a_few(shop: Shop, receiver: Receiver, deployment: Deployment, lines: Lines) -> None:
    """A hundred SIGHUPs in a second are one reload at once and one or two after it; no descriptor is left of any of them."""
    await shop.subscribe("notification/create", receiver.url)
    process = psutil.Process()
    read = 0

    def reread() -> Config:
        nonlocal read
        read += 1
        return deployment.read()

    async with running(deployment.read(), deployment.dsn, reread) as service:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, service.reload)
        await shop.notify()
        await eventually(lambda: _settled(shop))
        before = process.num_fds()
        over = asyncio.Event()
        for number in range(100):
            loop.call_later(number / 100, os.kill, os.getpid(), signal.SIGHUP)
        loop.call_later(1, over.set)
        await over.wait()
        await lines.have("reloaded", 2)
        await shop.notify()
        await eventually(lambda: _settled(shop))
        await eventually(lambda: _no_more_than(process, before))
        loop.remove_signal_handler(signal.SIGHUP)
    assert 2 <= read <= 3
    assert [("delivered", 1, 200, None)] * 2 == await shop.statuses()


async def _no_more_than(process: psutil.Process, files: int) -> bool:
    return process.num_fds() <= files


async def test_the_process_reloads(shop: Shop, receiver: Receiver, deployment: Deployment, tmp_path: Path) -> None:
    """`bisd run` under SIGHUP: what the file says now, and that only; variables of the environment still win."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500] * 2
    with manager(tmp_path) as systemd:
        async with Unit(systemd, deployment.file, BISD_DELIVERY_MAX_BODY_BYTES="1000") as unit:
            await systemd.hears("READY")
            deployment.set("retry", max_attempts=2)
            deployment.set("delivery", max_body_bytes=1)
            unit.send(signal.SIGHUP)
            await systemd.hears("READY", 2)
            await shop.notify()
            await eventually(lambda: _settled(shop))
            unit.send(signal.SIGTERM)
            assert 0 == await unit.ended()
    assert [("failed", 2, 500, "status")] == await shop.statuses()
    assert ["READY", "RELOADING", "READY", "STOPPING"] == systemd.order()
