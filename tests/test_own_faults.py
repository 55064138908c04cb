"""Faults of our own: no descriptors, no network, no name server. No receiver can help them, so none is blamed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic

import aiohttp
import psutil
import pytest

from bisd import db, log
from bisd.config import DeactivationConfig, DeliveryConfig, EgressConfig
from bisd.delivery.post import Post
from bisd.egress import Egress
from bisd.model import Code, Fault
from bisd.resolver import GuardedResolver, ResolverSilent
from tests.support.client import client, message, no_descriptors, told
from tests.support.daemon import Process, configure, running
from tests.support.hostile import Hostile
from tests.support.names import Names, names
from tests.support.shop import Shop, eventually

_ANY = Egress(EgressConfig(allow=configure(Path()).egress.allow))


def resolver(servers: Names, patience: float = 0.5, guard: Egress = _ANY) -> GuardedResolver:
    """That of the daemon, but for whom it asks."""

    def make() -> aiohttp.AsyncResolver:
        return aiohttp.AsyncResolver(nameservers=[f"127.0.0.1:{servers.port}"], timeout=2, tries=2)

    return GuardedResolver(guard, make, patience)


def asks(servers: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes a resolver from now on makes one that asks this server."""
    monkeypatch.setattr("bisd.resolver.guarded", lambda guard, patience: resolver(servers, patience, guard))


@pytest.mark.alone
async def test_two_hundred_silent_names_delay_nobody() -> None:
    """Each lookup ends on its own, within its patience and the half of it; a name that is answered is answered at once."""
    async with names() as servers:
        servers.addresses["good.example.com"] = "127.0.0.1"
        servers.silent = {f"silent{number}.example.com" for number in range(200)}
        asking = resolver(servers, 1.0)
        began = monotonic()
        lookups = [asyncio.create_task(asking.resolve(name, 443)) for name in servers.silent]
        await eventually(lambda: _asked(servers, 200))
        asked = monotonic()
        (answer,) = await asking.resolve("good.example.com", 443)
        assert ("127.0.0.1", True) == (answer["host"], monotonic() - asked < 0.3)
        outcomes = await asyncio.gather(*lookups, return_exceptions=True)
        assert [OSError] * 200 == list(map(type, outcomes))
        assert monotonic() - began < 3.0
        await asking.close()


async def _asked(servers: Names, number: int) -> bool:
    return len(set(servers.asked)) >= number


async def test_silent_names_are_not_taken_for_a_silent_server() -> None:
    """Though nobody else asks for anything: another name is asked, once for all who wait, and answered."""
    async with names() as servers:
        servers.silent = {f"silent{number}.example.com" for number in range(50)}
        servers.failing = {f"failing{number}.example.com" for number in range(50)}
        asking = resolver(servers)
        everyone = servers.silent | servers.failing
        outcomes = await asyncio.gather(*(asking.resolve(name, 443) for name in everyone), return_exceptions=True)
        assert {OSError} == set(map(type, outcomes))
        others = {name for name in servers.asked if name not in everyone}
        assert 1 <= len(others) <= 4
        await asking.close()


async def test_silent_server_is_known_at_once() -> None:
    """From the very first lookup on, and also right after one that was answered."""
    async with names() as servers:
        servers.addresses["good.example.com"] = "127.0.0.1"
        asking = resolver(servers, 0.3)
        await asking.resolve("good.example.com", 443)
        servers.down = True
        outcomes = await asyncio.gather(*(asking.resolve(f"{n}.example.com", 443) for n in range(20)), return_exceptions=True)
        assert {ResolverSilent} == set(map(type, outcomes))
        await asking.close()


async def test_other_name_servers_are_picked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """resolv.conf is written anew: the next lookup, once it is time to look, asks the new server; none is lost."""
    monkeypatch.setattr("bisd.resolver._RECONFIGURE_EVERY", 0.0)
    configuration = tmp_path / "resolv.conf"
    async with names() as old, names() as new:
        old.addresses["a.example.com"], new.addresses["b.example.com"] = "127.0.0.1", "127.0.0.2"
        current = old

        def make() -> aiohttp.AsyncResolver:
            return aiohttp.AsyncResolver(nameservers=[f"127.0.0.1:{current.port}"], timeout=2, tries=2)

        configuration.write_text("nameserver 127.0.0.1\n")
        asking = GuardedResolver(_ANY, make, 1.0, configuration)
        assert ["127.0.0.1"] == [answer["host"] for answer in await asking.resolve("a.example.com", 443)]
        current = new
        another = tmp_path / "resolv.conf.new"
        another.write_text("nameserver 127.0.0.2\n")
        another.rename(configuration)
        assert ["127.0.0.2"] == [answer["host"] for answer in await asking.resolve("b.example.com", 443)]
        configuration.unlink()
        assert ["127.0.0.2"] == [answer["host"] for answer in await asking.resolve("b.example.com", 443)]
        await asking.close()


async def test_out_of_descriptors(hostile: Hostile) -> None:
    """No socket can be opened: a fault of ours, and told so; afterwards all is well."""
    async with client(hostile) as post:
        with no_descriptors():
            answer = await post.send(message(hostile.url("/ok")))
        assert (Fault(Code.NETWORK), 200) == (answer, told(await post.send(message(hostile.url("/ok")))))


async def test_name_server_down(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours, within the timeout; a name that does not exist is not."""
    async with names() as servers:
        asks(servers, monkeypatch)
        async with client(hostile) as post:
            assert Code.DNS == told(await post.send(message("https://nobody.example.com/")))
            servers.down = True
            assert Fault(Code.RESOLVER) == await post.send(message("https://somebody.example.com/"))


_SEND = """
import asyncio, sys, uvloop
from datetime import timedelta
from bisd.config import DeliveryConfig, EgressConfig
from bisd.delivery.post import Post
from bisd.model import Message

async def main():
    second = timedelta(seconds=1)
    async with Post(DeliveryConfig(timeout=second, connect_timeout=second / 2), EgressConfig()) as post:
        for url in sys.argv[1:]:
            print((await post.send(Message(url, {}, b"{}"))))

uvloop.run(main())
"""
_V4, _V6 = "https://93.184.215.14/", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/"


def _in_a_network_of_its_own(setting: str) -> list[str]:
    """What becomes of a POST to a public address of either family, where the network is as `setting` makes it."""
    script = f'set -e; {setting}; exec "$@"'
    command = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", _SEND, _V4, _V6]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return [line.partition("(")[0] + line.partition("'")[2].partition("'")[0] for line in done.stdout.splitlines()]


@pytest.mark.skipif(
    subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True).returncode != 0, reason="may not make a network"
)
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("true", ["Faultnetwork", "Faultnetwork"]),
        ("ip link set lo up", ["Faultnetwork", "Faultnetwork"]),
        ("ip link set lo up; ip addr add 192.0.2.2/24 dev lo; ip route add default via 192.0.2.2 dev lo",
         ["NoResponseconnect", "NoResponseconnect"]),
    ],
    ids=["nothing", "loopback", "IPv4 only"],
)  # fmt: skip
def test_without_a_network(setting: str, expected: list[str]) -> None:
    """Without a way out it is our fault. With IPv4 but no IPv6, an address that only IPv6 could reach is the fault of who gave
    it: or one merchant could have all others wait."""
    assert expected == _in_a_network_of_its_own(setting)


async def _attempts(shop: Shop) -> list[tuple[int | None, str, str | None]]:
    rows = await shop.connection.fetch("select number, verdict::text, code from bisd.attempt order by attempted_at")
    return [(row["number"], row["verdict"], row["code"]) for row in rows]


async def _nothing_owed(shop: Shop) -> bool:
    """What was put off for half a minute is due now."""
    await shop.connection.execute(
        "update bisd.delivery set due_at = now(), txid = pg_current_xact_id() where due_at > now() + interval '5 seconds'"
    )
    return await shop.owed() == 0


class Log:
    """What the daemon in this process has said of outages."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._lines: list[tuple[str, str | None, float | None]] = []
        log.configure("info", "json")

    def lines(self) -> list[tuple[str, str | None, float | None]]:
        said = [json.loads(line) for line in self._capsys.readouterr().err.splitlines()]
        self._lines += [(one["event"], one.get("code"), one.get("seconds")) for one in said if "outage" in one["event"]]
        return self._lines

    async def has(self, number: int) -> bool:
        return len(self.lines()) >= number


@pytest.mark.parametrize("kind", ["names", "descriptors"])
async def test_lanes_pause_while_the_fault_is_ours(
    kind: str, shop: Shop, hostile: Hostile, dsn: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The name server is down, or no descriptor is left, under 300 deliveries to ten webhooks: a few attempts, which count for
    nothing, one line per pause, and nobody is deactivated, though one failure would do. When it is over a probe finds out,
    and everything is delivered, once and as a first attempt."""
    said = Log(capsys)
    config = configure(hostile.ca_file, timeout=timedelta(seconds=1), connect_timeout=timedelta(seconds=0.2))
    config = replace(
        config,
        deactivation=DeactivationConfig(timedelta(milliseconds=1), 1),
        egress=replace(config.egress, allow_http=True),
    )
    async with names() as servers:
        asks(servers, monkeypatch)
        servers.addresses["shop.example.com"] = "127.0.0.1"
        url = hostile.url(f"/ok?lanes-{kind}").replace("127.0.0.1", "shop.example.com" if kind == "names" else "127.0.0.1")
        for _ in range(10):
            await shop.subscribe("notification/create", url)
        async with running(config, dsn):
            with no_descriptors() if kind == "descriptors" else _down(servers):
                await shop.notify(30)
                await eventually(lambda: said.has(2))
                owed = await shop.connection.fetch("select attempts from bisd.delivery")
            await eventually(lambda: _nothing_owed(shop))
    code = "network" if kind == "descriptors" else "resolver"
    tried = await _attempts(shop)
    assert {(1, "delivered", None), (None, "postponed", code)} == set(tried)
    assert 300 == tried.count((1, "delivered", None))
    assert 3 <= tried.count((None, "postponed", code)) <= 100
    assert [0] * 300 == [row["attempts"] for row in owed]
    assert [("outage", code, 1.0), ("outage", code, 2.0)] == said.lines()[:2]
    assert ["outage_over"] == [event for event, *_ in said.lines() if event != "outage"]
    assert 300 == len(await hostile.requests(f"/ok?lanes-{kind}"))
    assert 10 == await shop.connection.fetchval("select count(*) from bisd.webhook where enabled")


def test_every_query_is_at_hand_when_no_descriptor_is_left() -> None:
    """Whatever was asked first: a session would be lost that asks something for the first time then, and its shards with it."""
    db._queries.cache_clear()
    assert db.query("snapshot")
    with no_descriptors():
        assert db.query("release_shards")


@contextmanager
def _down(servers: Names) -> Iterator[None]:
    servers.down = True
    yield
    servers.down = False


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://proxy.example.com:3128", "http://silent.example.com:3128"])
async def test_a_proxy_that_cannot_be_reached_is_our_fault(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, its name is not known, or is not answered though others are: whatever it is, no merchant can help it."""
    async with names() as servers:
        servers.silent = {"silent.example.com"}
        asks(servers, monkeypatch)
        async with Post(DeliveryConfig(), EgressConfig(proxy=proxy)) as post:
            assert Fault(Code.NETWORK) == await post.send(message("https://shop.com/"))


async def test_what_the_loop_has_to_say_is_told_in_one_line(
    ca_file: Path, dsn: str, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault that nobody waits for: its type, and not what it was about. What became of a connection is its attempt's."""
    log.configure("info", "json")
    async with running(configure(ca_file), dsn):
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "bis_hunter2", "exception": ValueError("bis_hunter2")})
        loop.call_exception_handler({"message": "bis_hunter2", "exception": RuntimeError(), "transport": object()})
    lines = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "internal_fault"]
    assert [("ValueError", "unknown")] == [(line["error"], line["where"]) for line in lines]


@pytest.mark.parametrize(("soft", "hard", "told"), [(64, 4_000, False), (64, 1_000, True)])
async def test_as_many_files_as_are_allowed(
    soft: int, hard: int, told: bool, shop: Shop, dsn: str, ca_file: Path, tmp_path: Path
) -> None:
    """A shell's soft limit is nothing to the daemon; a hard one that is too low is told, and what would be enough."""
    daemon = Process(tmp_path, dsn, ca_file)
    await daemon.start("prlimit", f"--nofile={soft}:{hard}")
    files = psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert 0 == await daemon.stop()
    lines = [line for line in map(json.loads, daemon.log.splitlines()) if line["event"] == "files_few"]
    assert ((hard, hard), [(1_000, 1_400)] if told else []) == (files, [(line["limit"], line["needed"]) for line in lines])
