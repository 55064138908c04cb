"""The HTTP face: who is answered, what every answer carries, and what nobody can do to it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
from aiohttp import web

from bisd import log, vitals
from bisd.address import Address
from bisd.admin import connection, guard
from bisd.config import Config
from bisd.errors import ConfigurationError
from bisd.service import Service
from bisd.vitals import Condition
from tests.support.cli import Run
from tests.support.daemon import configure
from tests.support.face import NOWHERE, Face, Reply, facing, read
from tests.support.link import Link
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

TOKEN = "4f" * 32
CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
EVERYWHERE = Address(ip_address("0.0.0.0"), 0)  # noqa: S104  (that it asks for a token is what is tested)


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    """Of a daemon without a database."""
    async with facing() as (_, face):
        yield face


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def request(target: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/{version}", *headers, "")).encode("latin-1")


async def is_alive(face: Face) -> bool:
    with suppress(OSError, ValueError):
        return (await face.get("/healthz")).status == 200
    return False


ANSWERS = {
    "alive": (request("/healthz", "Host: localhost"), 200),
    "not ready": (request("/readyz", "Host: localhost"), 503),
    "metrics": (request("/metrics", "Host: localhost"), 200),
    "head": (request("/metrics", "Host: localhost", method="HEAD"), 200),
    "unknown": (request("/nothing", "Host: localhost"), 404),
    "method": (request("/metrics", "Host: localhost", method="POST"), 405),
    "other name": (request("/healthz", "Host: example.com"), 421),
    "no name": (request("/healthz", version="1.0"), 400),
    "expectation": (request("/healthz", "Host: localhost", "Expect: wonders"), 417),
    "no request": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
}


@pytest.mark.parametrize(("octets", "status"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_every_answer_carries_the_same_guards(face: Face, octets: bytes, status: int) -> None:
    """Whatever came of it: what a browser may do with it, that nobody keeps it, and no version of anything."""
    reply = await face.ask(octets)
    assert status == reply.status
    plain = {"Content-Type", "Content-Length", "Content-Encoding", "Date", "Allow", "Connection"}
    assert {
        "Content-Security-Policy": CSP,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Server": "bisd",
    } == {name: value for name, value in reply.headers.items() if name not in plain}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_head_is_get_without_a_body(face: Face, path: str) -> None:
    """The same status and the same headers."""
    got, head = await face.get(path), await face.get(path, method="HEAD")
    assert (got.status, sorted(got.headers), b"") == (head.status, sorted(head.headers), head.body)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_nothing_can_be_changed_here(face: Face, path: str, method: str) -> None:
    """Any other method is 405, and says which there are."""
    reply = await face.get(path, method=method)
    assert (405, "GET,HEAD") == (reply.status, reply.headers["Allow"])


HOSTS = {
    "localhost": 200, "LOCALHOST": 200, "localhost:8747": 200, "127.0.0.1": 200, "127.0.0.1:1": 200, "bisd.example.com": 200,
    "BISD.example.com:443": 200, "example.com": 421, "localhost.": 421, "localhost.example.com": 421, "notlocalhost": 421,
    "127.0.0.1.example.com": 421, "127.0.0.2": 421, "127.1": 421, "2130706433": 421, "[::]": 421, "[::1]": 421,
    "[::ffff:127.0.0.1]": 421, "127.0.0.01": 421,
    "localhost:": 421, "localhost:x": 421, "localhost:123456": 421, "localhost,example.com": 421, "a localhost": 421, "": 421,
    "user@localhost": 421, "localhost/": 421, "localhost#": 421, "\xe9": 421,
}  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS.items())
async def test_only_who_knows_our_name_is_answered(host: str, status: int) -> None:
    """localhost, the address that was connected to, and public_url's: a page whose name was made to lead here is not."""
    async with facing(public_url="https://bisd.example.com:8443/") as (_, face):
        assert status == (await face.ask(request("/healthz", f"Host: {host}"))).status


TARGETS = {
    "target of another": (request("http://example.com/healthz", "Host: localhost"), 421),
    "header of another": (request("http://localhost/healthz", "Host: example.com"), 421),
    "both ours": (request("http://127.0.0.1:1/healthz", "Host: localhost"), 200),
    "other address": (request("http://[::1]/healthz", "Host: localhost"), 421),
    "no header": (request("/healthz"), 400),
    "old and no header": (request("/healthz", version="1.0"), 400),
    "absolute and no header": (request("http://localhost/healthz", version="1.0"), 400),
    "no ASCII": (b"GET /healthz?x=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "two": (request("/healthz", "Host: localhost", "Host: localhost"), 400),
    "one behind the other": (request("/healthz", "Host: localhost", "host: example.com"), 400),
    "forwarded": (request("/healthz", "Host: example.com", "X-Forwarded-Host: localhost", "Forwarded: host=localhost"), 421),
    "forwarded to us": (request("/healthz", "Host: localhost", "X-Forwarded-Host: example.com"), 200),
    "no such path": (request("/nothing", "Host: example.com"), 421),
    "no such method": (request("/healthz", "Host: example.com", method="POST"), 421),
}


@pytest.mark.parametrize(("octets", "status"), TARGETS.values(), ids=TARGETS.keys())
async def test_header_and_target_both_count(face: Face, octets: bytes, status: int) -> None:
    """An absolute target stands above the header (RFC 9112), what proxies add counts for nothing, and one header there is."""
    assert status == (await face.ask(octets)).status


STRANGE = {
    "connect": (request("localhost:1", "Host: localhost", method="CONNECT"), 404),
    "connect to a path": (request("/", "Host: localhost", method="CONNECT"), 421),
    "asterisk": (request("*", "Host: localhost", method="OPTIONS"), 404),
    "asterisk got": (request("*", "Host: localhost"), 400),
    "lower case": (request("/healthz", "Host: localhost", method="get"), 400),
    "long": (request("/" + "a" * (64 << 10), "Host: localhost"), 400),
    "long header": (request("/healthz", "Host: localhost", "X: " + "a" * (64 << 10)), 400),
    "many headers": (request("/healthz", "Host: localhost", *(f"X{n}: 1" for n in range(1000))), 400),
    "two slashes": (request("//healthz", "Host: localhost"), 404),
    "somebody's path": (request("//example.com/healthz", "Host: localhost"), 404),
    "up": (request("/x/../healthz", "Host: localhost"), 404),
    "up in disguise": (request("/%2e%2e/healthz", "Host: localhost"), 404),
    "nul": (request("/healthz%00", "Host: localhost"), 404),
    "no UTF-8": (request("/%ff", "Host: localhost"), 404),
    "Latin-1": (request("/\xff", "Host: localhost"), 400),
    "no host": (request("http:///healthz", "Host: localhost"), 400),
    "half an address": (request("http://[/healthz", "Host: localhost"), 400),
    "no port": (request("http://localhost:99999999/healthz", "Host: localhost"), 400),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "lengths": (request("/healthz", "Host: localhost", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "codings": (request("/healthz", "Host: localhost", "Transfer-Encoding: chunked, chunked"), 400),
    "upgrade": (request("/healthz", "Host: localhost", "Connection: upgrade", "Upgrade: websocket"), 200),
    "body": (request("/healthz", "Host: localhost", "Content-Length: 100000000"), 200),
    "packed body": (request("/healthz", "Host: localhost", "Content-Encoding: gzip", "Content-Length: 3") + b"abc", 200),
    "range": (request("/healthz", "Host: localhost", "Range: bytes=0-1", "If-None-Match: *"), 200),
}


@pytest.mark.parametrize(("octets", "status"), STRANGE.values(), ids=STRANGE.keys())
async def test_what_is_strange_is_answered_and_forgotten(
    face: Face, octets: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its status; nothing is logged, for a log that anybody can fill tells nothing; and the face goes on."""
    log.configure("warning", "json")
    assert status == (await face.ask(octets)).status
    assert await is_alive(face)
    assert "internal_fault" not in capsys.readouterr().err


BROKEN_OFF = {
    "an order": ("/api/v1/accounts", f"Authorization: Bearer {TOKEN}", "Content-Type: application/json"),
    "a form": ("/login", "Content-Type: application/x-www-form-urlencoded"),
}


@pytest.mark.parametrize("lines", BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
async def test_a_body_that_breaks_off_is_no_fault_of_ours(
    token_file: Path, lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the connection ends or what comes is no chunk: 400 to whoever is still there, and nothing is logged."""
    path, *headers = lines
    async with facing(token_file=token_file) as (_, face):
        log.configure("warning", "json")
        _, writer = await face.connect()
        writer.write(request(path, "Host: localhost", *headers, "Content-Length: 100", method="POST") + b"{")
        assert await is_alive(face)
        writer.transport.abort()
        assert await is_alive(face)
        chunked = request(path, "Host: localhost", *headers, "Transfer-Encoding: chunked", method="POST")
        assert 400 == (await face.ask(chunked + b'2\r\n{"\r\nno length\r\n')).status
        assert await is_alive(face)
    assert "internal_fault" not in capsys.readouterr().err


async def test_a_target_that_nobody_can_read_is_not_answered(face: Face, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser takes it, and no host comes of it: the connection is closed at once, and nothing is logged."""
    log.configure("warning", "json")
    with pytest.raises(ValueError, match="closed without an answer"):
        await face.ask(request("http://xn--/healthz", "Host: localhost"))
    assert await is_alive(face)
    assert "internal_fault" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("", 401), (f"Authorization: Bearer {TOKEN}", 200), (f"authorization: bearer  {TOKEN} ", 200),
        (f"Authorization: Bearer {TOKEN[:-1]}", 401), (f"Authorization: Bearer {TOKEN}0", 401),
        (f"Authorization: {TOKEN}", 401), (f"Authorization: Basic {TOKEN}", 401), 
        ("Authorization: Bearer", 401), ("Authorization: Bearer \xe9", 401),
    ],
)  # fmt: skip
async def test_metrics_are_for_bearers(token_file: Path, header: str, status: int) -> None:
    """With a token_file, /metrics is answered to who sends the token, and tells others how they might; what a load balancer
    asks stays open."""
    async with facing(token_file=token_file) as (_, face):
        headers = ["Host: localhost", *([header] if header else [])]
        reply = await face.ask(request("/metrics", *headers))
        assert status == reply.status
        assert (None if status == 200 else 'Bearer realm="bisd"') == reply.headers.get("WWW-Authenticate")
        assert [200, 503] == [(await face.get(path)).status for path in ("/healthz", "/readyz")]


async def test_where_others_can_reach_it_metrics_need_a_token(token_file: Path) -> None:
    """On all addresses: under the one that was connected to, and no other."""
    async with facing(listen=EVERYWHERE, token_file=token_file) as (_, face):
        reached = Face(Address(ip_address("127.0.0.1"), face.port))
        assert 200 == (await reached.ask(request("/healthz", "Host: 127.0.0.1"))).status
        assert 421 == (await reached.ask(request("/healthz", "Host: 127.0.0.2"))).status
        assert 401 == (await reached.get("/metrics")).status


@pytest.mark.parametrize("text", ["short", "x" * 15, "4f" * 32 + " 4f", "4f" * 32 + "\n\n", "\xe9" * 40, "", None])
async def test_what_is_no_token_stops_the_start(tmp_path: Path, text: str | None) -> None:
    """Too short, with spaces, not ASCII, empty or not there: named by its key, and not shown."""
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ExceptionGroup) as raised:
        async with facing(token_file=file):
            pass
    (fault,) = raised.value.exceptions
    assert isinstance(fault, ConfigurationError)
    assert str(fault).startswith(f"http.token_file: {file} ")
    assert text is None or text == "" or text not in str(fault)


def test_a_port_in_use_is_named(bisd: Run) -> None:
    """`bisd run` ends at once, before it asks the database: exit 2, and one line that names port and key."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = bisd("run", BISD_HTTP_LISTEN=f"127.0.0.1:{port}", BISD_LOG_LEVEL="error")
    assert (2, "") == (ran.returncode, ran.stdout)
    assert f"bisd: http.listen: port {port} of 127.0.0.1 is in use" in ran.stderr
    assert 1 == len(ran.stderr.splitlines())


def test_what_others_can_reach_needs_a_token_first(bisd: Run) -> None:
    """All addresses without a token: exit 2, and what would be right."""
    ran = bisd("run", BISD_HTTP_LISTEN="0.0.0.0:0")
    assert (2, True) == (
        ran.returncode,
        ran.stderr.startswith("bisd: http.listen: 0.0.0.0:0 can be reached from other machines"),
    )


async def test_an_address_that_is_not_ours_is_named() -> None:
    """What the system says of it, beside the key."""
    with pytest.raises(ExceptionGroup) as raised:
        async with facing(listen=Address(ip_address("203.0.113.7"), 8747), token_file=None):
            pass
    assert "http.listen: 203.0.113.7:8747 cannot be listened on: " in str(raised.value.exceptions[0])


async def test_version_6_is_served_too() -> None:
    """Under [::1], with its brackets."""
    async with facing(listen=Address(ip_address("::1"), 0)) as (_, face):
        assert 200 == (await face.ask(request("/healthz", f"Host: [::1]:{face.port}"))).status
        assert 200 == (await face.ask(request("http://[::1]/healthz", "Host: localhost"))).status
        assert 421 == (await face.ask(request("/healthz", "Host: 127.0.0.1"))).status


async def test_a_socket_is_made_and_taken_away(tmp_path: Path) -> None:
    """For its owner and its group, and for the time that the daemon runs."""
    path = tmp_path / "bisd.sock"
    async with facing(listen=path) as (_, face):
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        assert 200 == (await face.get("/healthz")).status
        assert 421 == (await face.ask(request("/healthz", "Host: bisd.sock"))).status
    assert not path.exists()


async def test_a_socket_of_the_dead_is_replaced(tmp_path: Path) -> None:
    """A daemon that was killed leaves its own behind."""
    path = tmp_path / "bisd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with facing(listen=path) as (_, face):
        assert 200 == (await face.get("/healthz")).status


@pytest.mark.parametrize("what", ["socket", "full socket", "file", "directory", "nowhere"])
async def test_what_is_somebody_elses_stays(tmp_path: Path, what: str) -> None:
    """A socket on which somebody listens, however busy, and what is no socket: neither is taken away, and both are named."""
    path = tmp_path / "bisd.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        match what:
            case "socket" | "full socket":
                living.bind(str(path))
                living.listen(0)
                if what == "full socket":
                    waiting.connect(str(path))
            case "file":
                path.write_text("mine")
            case "directory":
                path.mkdir()
            case _:
                path = tmp_path / "none" / "bisd.sock"
        before = path.stat().st_ino if path.exists() else None
        with pytest.raises(ExceptionGroup) as raised:
            async with facing(listen=path):
                pass
        assert str(raised.value.exceptions[0]).startswith(f"http.listen: {path} cannot be listened on: ")
        assert before == (path.stat().st_ino if path.exists() else None)


async def test_off_is_off() -> None:
    """No socket listens that did not before."""
    config = Config()
    service = Service(replace(config, http=replace(config.http, listen=None)), NOWHERE)
    before = listeners()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(service.run())
        await eventually(lambda: _asks(service))
        assert (before, None) == (listeners(), service.listens_at)
        service.stop()


def listeners() -> set[object]:
    return {one.laddr for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"}


async def _asks(service: Service) -> bool:
    """Whether it has tried to connect to its database."""
    return bool(
        service.metrics.registry.get_sample_value("bisd_database_connects_total", {"what": "start", "result": "failed"})
    )


@pytest.mark.alone
async def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a word, half a request, a header now and then, or nothing after an answer: closed in the same time."""
    monkeypatch.setattr(connection, "IDLE", 0.3)
    async with facing() as (_, face):
        for begin in (
            b"",
            b"GET /healthz HTT",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-",
            request("/healthz", "Host: localhost"),
        ):
            reader, writer = await face.connect()
            writer.write(begin)
            began = monotonic()
            with suppress(ConnectionError):
                while monotonic() < began + 5.0:
                    try:
                        async with asyncio.timeout(0.05):
                            if await reader.read(4096) == b"":
                                break
                    except TimeoutError:
                        if begin.endswith(b"X-"):
                            writer.write(b"a")
            assert 0.25 < monotonic() - began < 2.0
            writer.close()


async def test_who_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests one after the other, and no answer taken: the connection is ended, and what was unsent with it."""
    monkeypatch.setattr(connection, "TAKEN_WITHIN", 0.3)
    async with facing() as (_, face):
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(greedy, ("127.0.0.1", face.port))
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(20):
                    while True:
                        await loop.sock_sendall(greedy, request("/metrics", "Host: localhost") * 100)
        assert await is_alive(face)


async def test_a_thousand_connections_leave_the_daemon_alone(face: Face) -> None:
    """So many are served as may be, others closed at once; when they have gone, all is as before."""
    opened = await asyncio.gather(*(face.connect() for _ in range(1000)), return_exceptions=True)
    pairs = [one for one in opened if not isinstance(one, BaseException)]

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        with suppress(OSError, ValueError):
            writer.write(request("/healthz", "Host: localhost"))
            return (await read(reader)).status == 200
        return False

    answers = await asyncio.gather(*(answered(*pair) for pair in pairs))
    assert connection.MOST == sum(answers)
    for _, writer in pairs:
        writer.close()
    await eventually(lambda: is_alive(face))


@pytest.mark.alone
async def test_deliveries_go_on_among_a_thousand_connections(shop: Shop, receiver: Receiver, dsn: str, ca_file: Path) -> None:
    """That say nothing, and keep whatever they may."""
    await shop.subscribe("notification/create", receiver.url)
    async with facing(dsn, configure(ca_file)) as (_, face):
        await eventually(lambda: is_ready(face))
        opened = await asyncio.gather(*(face.connect() for _ in range(1000)), return_exceptions=True)
        began = monotonic()
        await shop.notify(50)
        await receiver.received(50)
        assert monotonic() - began < 2.0
        for one in opened:
            if not isinstance(one, BaseException):
                one[1].close()


async def test_a_fault_of_ours_is_told_by_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 with the guards of every answer; its text goes neither to who asked nor to the log."""

    def fail(*_: object) -> Condition:
        raise ValueError(TOKEN)

    log.configure("warning", "json")
    monkeypatch.setattr("bisd.vitals.Vitals.alive", fail)
    async with facing() as (_, face):
        reply = await face.get("/healthz")
    assert (500, b"500: Internal Server Error", guard.HEADERS["Server"]) == (reply.status, reply.body, reply.headers["Server"])
    told = capsys.readouterr().err
    assert ("ValueError" in told, TOKEN in told) == (True, False)


async def ready(face: Face) -> Reply:
    return await face.get("/readyz")


async def is_ready(face: Face) -> bool:
    return (await ready(face)).status == 200


async def test_ready_is_connected_listening_and_owning(dsn: str, ca_file: Path) -> None:
    """With what a load balancer and a person want to know."""
    async with facing(dsn, configure(ca_file)) as (_, face):
        await eventually(lambda: is_ready(face))
        told = (await ready(face)).json
    assert {"ok": True, "reasons": [], "connected": True, "listening": True, "shards": 64, "members": 1} == {
        name: told[name] for name in ("ok", "reasons", "connected", "listening", "shards", "members")
    }
    assert {"version", "schema"} < told.keys()


@pytest.mark.alone
async def test_without_a_database_it_lives_and_is_not_ready(face: Face) -> None:
    """And says what it waits for, at once."""
    began = monotonic()
    alive, told, metrics = await face.get("/healthz"), await ready(face), await face.get("/metrics")
    assert monotonic() - began < 1.0
    assert ([200, 503, 200], True) == ([alive.status, told.status, metrics.status], alive.json["ok"])
    assert ["no database with the schema of this version has answered yet"] == told.json["reasons"]


@pytest.fixture
async def link(dsn: str) -> AsyncIterator[Link]:
    """The line to the database, which is whole again when the test ends, however it ends."""
    link = Link(dsn)
    await link.start()
    yield link
    await link.stop()


@pytest.mark.alone
async def test_a_database_that_hangs_is_told_within_seconds(link: Link, ca_file: Path) -> None:
    """Every answer comes within a second all the while; and it is ready again when the database is."""
    async with facing(link.dsn, configure(ca_file)) as (_, face):
        await eventually(lambda: is_ready(face))
        link.freeze()
        slowest = 0.0

        async def is_told() -> bool:
            nonlocal slowest
            began = monotonic()
            alive, told, metrics = await face.get("/healthz"), await ready(face), await face.get("/metrics")
            slowest = max(slowest, monotonic() - began)
            assert (200, 200) == (alive.status, metrics.status)
            return bool(told.status == 503 and "has not answered for" in told.json["reasons"][0])

        try:
            await eventually(is_told)
        finally:
            link.thaw()
        await eventually(lambda: is_ready(face))
    assert slowest < 1.0


@pytest.mark.alone
async def test_a_lost_database_is_no_death(link: Link, ca_file: Path) -> None:
    """It is gone from one moment to the next: that is told, at once, by a process that lives."""
    async with facing(link.dsn, configure(ca_file)) as (_, face):
        await eventually(lambda: is_ready(face))
        await link.stop()
        await eventually(lambda: _says(face, "there is no connection to the database"))
        began = monotonic()
        assert 200 == (await face.get("/healthz")).status
        assert 0 == (await face.samples())["bisd_ready"]
        assert monotonic() - began < 1.0


async def test_a_daemon_that_drains_is_not_ready(shop: Shop, receiver: Receiver, dsn: str, ca_file: Path) -> None:
    """While what is in flight ends, it lives and says that it is stopping."""
    release = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    receiver.answer = answer
    await shop.subscribe("notification/create", receiver.url)
    async with facing(dsn, configure(ca_file)) as (service, face):
        await eventually(lambda: is_ready(face))
        await shop.notify()
        await receiver.received(1)
        service.stop()
        await eventually(lambda: _says(face, "it is stopping"))
        assert 200 == (await face.get("/healthz")).status
        release.set()


async def _says(face: Face, reason: str) -> bool:
    told = await ready(face)
    return told.status == 503 and reason in told.json["reasons"]


async def test_a_loop_that_was_stuck_is_told(dsn: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that does not turn answers nobody; for a while after it did, whoever asks hears of it."""
    monkeypatch.setattr(vitals, "_MOST_LAG", 0.3)
    async with facing(dsn, configure(ca_file)) as (_, face):
        await eventually(lambda: is_ready(face))
        assert await is_alive(face)
        sleep(0.9)  # noqa: ASYNC251  (to block it is what is wanted)
        await eventually(lambda: _dies(face))
        reply = await face.get("/healthz")
    assert (503, False) == (reply.status, reply.json["ok"])
    assert re.fullmatch(r"the event loop was busy for \d\.\d s", reply.json["reasons"][0])


async def _dies(face: Face) -> bool:
    return (await face.get("/healthz")).status == 503


async def test_reasons_are_json_that_any_program_reads(face: Face) -> None:
    """Its type says so, and a program that knows nothing of bisd finds `ok` and `reasons`."""
    for path in ("/healthz", "/readyz"):
        reply = await face.get(path)
        assert "application/json; charset=utf-8" == reply.headers["Content-Type"]
        told = json.loads(reply.body)
        assert told["ok"] is (told["reasons"] == [])
