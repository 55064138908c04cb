"""Answers of a hostile receiver, against the real client: each ends in time, costs next to nothing, and is told for what it is.

The receiver is a process of its own (tests/support/hostile.py has a docstring per misbehaviour), so that all that is measured
here is ours.
"""

from __future__ import annotations

import asyncio
import gc
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from bisd.config import DeliveryConfig, EgressConfig, RetryConfig
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.model import Answer, Code, Delivered, Response, Retry, Took
from tests.support.client import DELIVERY, NOW, WEBHOOK, at_best, bounded, client, measured, message, no_connection, told
from tests.support.hostile import Hostile
from tests.support.misbehaviour import MISBEHAVIOURS
from tests.support.shop import eventually

pytestmark = pytest.mark.alone

# What each path is answered with: a status, or a code where there is none.
EXPECTED: dict[str, int | Code] = {
    "/ok": 200,
    "/big": 200,
    "/big_chunked": 200,
    "/tiny_chunks": 200,
    "/gzip_bomb": 200,
    "/members": 200,
    "/headers": Code.BAD_RESPONSE,
    "/endless_header": Code.BAD_RESPONSE,
    "/endless_name": Code.BAD_RESPONSE,
    "/endless_status": Code.BAD_RESPONSE,
    "/blank_lines": Code.TOO_BIG,
    "/trailers": 200,
    "/chunk_extension": 200,
    "/chunk_size": 200,
    "/continues": Code.TOO_BIG,
    "/hints": Code.TOO_BIG,
    "/segments": Code.TOO_BIG,
    "/many_answers": 200,
    "/bad_chunk": 200,
    "/no_content": 204,
    "/not_modified": 304,
    "/switching": 101,
    "/two_lengths": Code.BAD_RESPONSE,
    "/length_and_chunked": Code.BAD_RESPONSE,
    "/negative_length": Code.BAD_RESPONSE,
    "/nul": Code.BAD_RESPONSE,
    "/http09": Code.BAD_RESPONSE,
    "/garbage": Code.BAD_RESPONSE,
    "/status_0200": Code.BAD_RESPONSE,
    "/status_999": 999,
    "/status_007": 7,
    "/upgrade": 101,
    "/upgrade_200": 200,
    "/cookie": 200,
    "/cookies": 200,
    "/redirect_metadata": 307,
    "/redirect_loop": 307,
    "/redirect_file": 307,
    "/redirect_canary": 307,
    "/redirect_nonsense": 307,
    "/redirect_terminal": 307,
    "/gone": 410,
    "/error_200": 200,
    "/retry_after": 429,
    "/echo": Code.BAD_RESPONSE,
    "/hang": Code.TIMEOUT,
    "/unread": Code.TIMEOUT,
    "/deaf": 200,
    "/slow_header": Code.TIMEOUT,
    "/slow_body": 200,
    "/empty": Code.DISCONNECTED,
    "/reset": Code.DISCONNECTED,
    "/reset_in_header": Code.DISCONNECTED,
    "/reset_in_body": 200,
    "/truncated": 200,
    "/early": 200,
    "/closes_idle": 200,
    "/closes_reused": 200,
    "/resets_reused": 200,
    "/closes_always": 200,
    "/closes_then_hangs": 200,
    "/one_octet_reused": 200,
    "/hangs_reused": 200,
    "/extra": 200,
    "/extra_partial": 200,
    "/extra_at_once": 200,
    "/extra_garbage": 200,
}
# After these, and only these, the connection may be used again.
CLEAN = {
    "/ok",
    "/deaf",
    "/status_999",
    "/status_007",
    "/upgrade_200",
    "/cookie",
    "/cookies",
    "/gone",
    "/error_200",
    "/retry_after",
} | {path for path in EXPECTED if path.startswith("/redirect_") or path.endswith(("_reused", "_always", "_hangs"))}


def test_every_misbehaviour_is_expected_to_end_somehow() -> None:
    """None is left out of the table."""
    assert set(MISBEHAVIOURS) == set(EXPECTED)


@pytest.mark.parametrize("port", ["plain", "tls"])
@pytest.mark.parametrize("path", EXPECTED)
async def test_misbehaviour(path: str, port: str, hostile: Hostile) -> None:
    """The expected answer, within the timeout and half a second; 100 ms of CPU, 8 MiB, and the loop is free every 50 ms. The
    connection is closed at once, unless all was well with it."""

    async def go() -> tuple[int | Code, list[str]]:
        async with client(hostile) as post:
            await post.send(message(hostile.url("/truncated", port)))  # what is done once is not what it costs
            async with measured() as cost:
                answer = await post.send(message(hostile.url(f"{path}?{'31' if path == '/retry_after' else port}", port)))
            if path not in CLEAN:
                await eventually(lambda: no_connection(hostile), 0.5)
        await eventually(lambda: no_connection(hostile), 0.5)
        return told(answer), bounded(cost)

    assert (EXPECTED[path], []) == await at_best(go)


@pytest.mark.parametrize("port", ["plain", "tls"])
async def test_no_misbehaviour_keeps_what_was_sent(port: str, hostile: Hostile) -> None:
    """Nobody holds a message any more that was sent, whatever was answered, and nobody has to collect garbage for that: a
    thousand of a megabyte would be held until it comes to it."""
    kept = {}
    with uncollected():
        for path in EXPECTED:
            async with client(hostile, 0.5) as post:
                sent = message(hostile.url(f"{path}?{port}", port))
                before = sys.getrefcount(sent)
                await post.send(sent)
            await eventually(lambda: no_connection(hostile), 0.5)
            if sys.getrefcount(sent) != before:
                kept[path] = sys.getrefcount(sent) - before
    assert {} == kept


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage that is circular stays as long as this lasts."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# Before there is a path, by scheme.
PORTS = {
    ("https", "expired"): Code.TLS_EXPIRED,
    ("https", "not_yet"): Code.TLS_EXPIRED,
    ("https", "wrong_name"): Code.TLS_NAME,
    ("https", "untrusted"): Code.TLS_UNTRUSTED,
    ("https", "old"): Code.TLS,
    ("https", "noise"): Code.TLS,
    ("https", "plain"): Code.TLS,
    ("https", "silent"): Code.CONNECT,
    ("https", "resets"): Code.CONNECT,
    ("https", "closes"): Code.CONNECT,
    ("https", "tickets"): Code.TOO_BIG,
    ("http", "old"): Code.BAD_RESPONSE,
    ("http", "tls"): Code.DISCONNECTED,
    ("http", "closes"): Code.DISCONNECTED,
    ("http", "silent"): Code.TIMEOUT,
}


@pytest.mark.parametrize(("scheme", "port"), PORTS)
async def test_misbehaviour_of_a_port(scheme: str, port: str, hostile: Hostile) -> None:
    """Certificates that are not to be trusted, handshakes that hang or fail, and what is no TLS or no HTTP at all: each has its
    code, within the bounds. Not a single request is sent before the certificate has been verified."""
    path = f"/ok?{scheme}-{port}"

    async def go() -> tuple[int | Code, list[str]]:
        async with client(hostile) as post:
            await post.send(message(hostile.url("/truncated", "tls")))
            async with measured() as cost:
                answer = await post.send(message(f"{scheme}://127.0.0.1:{hostile.ports[port]}{path}"))
            await eventually(lambda: no_connection(hostile), 0.5)
        return told(answer), bounded(cost)

    assert (PORTS[scheme, port], []) == await at_best(go)
    assert await hostile.requests(path) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_reset_at_once(scheme: str, hostile: Hostile) -> None:
    """Whoever resets the connection as soon as it is there was not reached, or has hung up: a failure, soon and once. No socket
    is left that would close its descriptor once more, which may be somebody else's by then."""
    url = f"{scheme}://127.0.0.1:{hostile.ports['resets']}/"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with client(hostile) as post:
            answers = await asyncio.gather(*[post.send(message(url)) for _ in range(50)])
        gc.collect()
    assert {Code.CONNECT, Code.DISCONNECTED} >= set(map(told, answers))
    assert [] == list(map(str, warned))


async def test_body_of_an_answer_has_little_time(hostile: Hostile) -> None:
    """What drips after the status is waited for two seconds, however long the timeout, and kept as far as it came."""

    async def go() -> tuple[Answer, list[str]]:
        async with client(hostile, seconds=10) as post, measured() as cost:
            answer = await post.send(message(hostile.url("/slow_body")))
        return answer, bounded(cost, 2.0)

    answer, exceeded = await at_best(go)
    assert isinstance(answer, Response)
    assert (200, []) == (answer.status, exceeded)
    assert 10 <= len(answer.body) <= 25


async def test_first_octets_of_an_answer_are_kept(hostile: Hostile) -> None:
    """As many as configured, of a body that goes on for 10 GB; none, if none are to be."""
    for most in (0, 1, 4096):
        async with client(hostile, max_response_bytes=most) as post:
            for path in ("/big", "/big_chunked", "/ok"):
                answer = await post.send(message(hostile.url(path)))
                assert isinstance(answer, Response)
                assert (b"ok" if path == "/ok" else b"x" * 4096)[:most] == answer.body


@pytest.mark.parametrize("port", ["plain", "tls"])
async def test_nobody_reads_what_we_send(port: str, hostile: Hostile) -> None:
    """A large body to somebody who does not read it: the timeout ends it, and nothing is kept waiting to be sent."""
    async with client(hostile, max_body_bytes=64 << 20) as post:
        answer = await post.send(message(hostile.url("/unread", port), b"x" * (32 << 20)))
        assert told(answer) == Code.TIMEOUT
        await eventually(lambda: no_connection(hostile), 0.5)


@pytest.mark.parametrize("port", ["plain", "tls"])
async def test_nobody_reads_what_we_send_and_answers(port: str, hostile: Hostile) -> None:
    """Fifty bodies of a megabyte to somebody who takes them unread: they are not kept to be sent some day."""
    async with client(hostile) as post:
        asked = message(hostile.url("/deaf", port), b"x" * (1 << 20))
        await post.send(asked)  # what is done once is not what it costs
        async with measured() as cost:
            answers = {told(await post.send(asked)) for _ in range(50)}
        assert ({200}, True) == (answers, cost.memory <= 8 << 20)
        await eventually(lambda: no_connection(hostile), 0.5)


async def test_what_is_no_chunk_is_not_waited_for(hostile: Hostile) -> None:
    """The body ends with what could be read, at once."""

    async def go() -> tuple[Answer, list[str]]:
        async with client(hostile) as post, measured() as cost:
            answer = await post.send(message(hostile.url("/bad_chunk")))
        return answer, bounded(cost, 0.0)

    answer, exceeded = await at_best(go)
    assert isinstance(answer, Response)
    assert (200, b"ok", []) == (answer.status, answer.body, exceeded)


async def test_key_exchange_is_by_elliptic_curves(ca_file: Path) -> None:
    """A receiver chooses among what we offer: no group of a finite field, whose 8192 bits would stop everybody for a while."""
    hellos: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = (await reader.readexactly(5))[3:]
        hellos.put_nowait(await reader.readexactly(int.from_bytes(length)))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        egress = EgressConfig(allow=[ip_network("127.0.0.0/8")], ports=[(1, 65535)], ca_file=ca_file)
        async with Post(DeliveryConfig(), egress) as post:
            await post.send(message(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
    suites, groups = offered(await hellos.get())
    assert {0x1301, 0x1302, 0x1303} < suites
    # TLS_ECDHE_*, and the signal that renegotiation is safe.
    assert all(suite >> 8 in (0x13, 0xC0, 0xCC) or suite == 0x00FF for suite in suites)
    assert {0xCCAA} & suites == set()  # TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    assert [0x0017] == groups  # secp256r1


def offered(hello: bytes) -> tuple[set[int], list[int]]:
    """The cipher suites and the groups of a ClientHello (RFC 8446, 4.1.2)."""
    at = 4 + 2 + 32
    at += 1 + hello[at]
    many = int.from_bytes(hello[at : at + 2])
    suites = {code for (code,) in struct.iter_unpack(">H", hello[at + 2 : at + 2 + many])}
    at += 2 + many
    at += 1 + hello[at] + 2
    while at < len(hello):
        kind, size = struct.unpack_from(">HH", hello, at)
        if kind == 10:
            return suites, [code for (code,) in struct.iter_unpack(">H", hello[at + 6 : at + 4 + size])]
        at += 4 + size
    raise ValueError("no groups")


@pytest.mark.parametrize("port", ["plain", "tls"])
async def test_answer_before_the_body_was_read(port: str, hostile: Hostile) -> None:
    """200 to the head of a request of 8 MiB, and the connection is closed: it was taken."""
    async with client(hostile, max_body_bytes=8 << 20) as post:
        answer = await post.send(message(hostile.url("/early", port), b"x" * (8 << 20)))
    assert told(answer) == 200


@pytest.mark.parametrize("path", sorted(path for path in EXPECTED if path.startswith("/redirect_")))
async def test_redirects_are_not_followed(path: str, hostile: Hostile) -> None:
    """One request in all, wherever it points; where it pointed is told, and it is a failure."""
    async with client(hostile) as post:
        answer = await post.send(message(hostile.url(f"{path}?once")))
    assert isinstance(answer, Response) and answer.location is not None
    assert (307, Took.NO) == (answer.status, POLICY.took(answer))
    assert [1, 0, 0] == [len(await hostile.requests(asked)) for asked in (f"{path}?once", "/canary?", "/redirect_loop?")]


async def test_no_cookie_is_sent_back(hostile: Hostile) -> None:
    """Nor anything else that an answer asks to be remembered: the next request is the same as the first."""
    async with client(hostile) as post:
        asked = message(hostile.url("/cookie?kept"))
        assert [200, 200] == [told(await post.send(asked)) for _ in range(2)]
    first, second = await hostile.requests("/cookie?kept")
    assert first == second
    assert b"cookie:" not in first.lower()


POLICY = Policy(DeliveryConfig(), RetryConfig(jitter=0.0), lambda: 0.0)
# Seconds until the next attempt: five by the schedule, at most a day.
RETRY_AFTER = {
    "0": 5.0, "1": 5.0, "120": 120.1, "-120": 5.0, "86400": 86400.1, "86401": 86400.1, "1" + "0" * 12: 86400.1, "9" * 1000: 5.0,
    "1" * 100: 86400.1, "1e3": 5.0, "1.5": 5.0, "inf": 5.0, "nan": 5.0, "-inf": 5.0, "": 5.0, "soon": 5.0, "0x10": 5.0,
    "\u0661\u0662": 5.0, "Thu, 01 Jan 2026 00:02:00 GMT": 120.1, "Thu, 01 Jan 2026 00:02:00": 5.0,
    "Wed, 31 Dec 2025 23:00:00 GMT": 5.0, "Fri, 31 Dec 9999 23:59:59 GMT": 86400.1, "Fri, 31 Dec 9999 23:59:59 -2359": 86400.1,
    "Sat, 01 Jan 0001 00:00:00 +2359": 5.0, "Thu, 99 Foo 2026 99:99:99 GMT": 5.0, "Thu, 01 Jan 99999999999 00:00:00 GMT": 5.0,
}  # fmt: skip


@pytest.mark.parametrize("text", RETRY_AFTER, ids=lambda text: ascii(text)[:30])
async def test_retry_after(text: str, hostile: Hostile) -> None:
    """Seconds or a date, clamped; what is neither, or of the past, is as if it had not been said; nothing overflows."""
    async with client(hostile) as post:
        answer = await post.send(message(hostile.url(f"/retry_after?{text.encode().hex()}")))
    assert told(answer) == 429
    webhook, delivery = WEBHOOK, DELIVERY
    assert Retry(NOW + timedelta(seconds=RETRY_AFTER[text])) == POLICY.judge(webhook, delivery, answer, NOW)


async def test_gone_says_so_and_an_error_in_words_is_none(hostile: Hostile) -> None:
    """410 is the end of a webhook; 200 is success, whatever its body says."""
    async with client(hostile) as post:
        gone = await post.send(message(hostile.url("/gone")))
        fine = await post.send(message(hostile.url("/error_200")))
    assert (Took.GONE, Took.YES) == (POLICY.took(gone), POLICY.took(fine))
    assert Delivered() == POLICY.judge(WEBHOOK, DELIVERY, fine, NOW)


@pytest.mark.parametrize(("number", "expected"), [(0, 200), (8, 200), (9, Code.TOO_BIG)])
async def test_a_few_interim_answers_are_passed_over(number: int, expected: int | Code, hostile: Hostile) -> None:
    """Eight at most, then there must be an answer."""
    octets = b"HTTP/1.1 103 Early Hints\r\n\r\n" * number + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with client(hostile) as post:
        assert expected == told(await post.send(message(hostile.url("/echo"), octets)))
