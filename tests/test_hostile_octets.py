"""Any octets whatsoever as an answer, over a real socket: what comes of them is one of the answers that there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bisd.delivery.post import Post
from bisd.model import Answer, Code, NoResponse, Response
from tests.support.client import client, message
from tests.support.hostile import Hostile

_HEADERS = [
    b"Content-Length: 2",
    b"Content-Length: 5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: +2",
    b"Content-Length:",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Content-Encoding: gzip",
    b"Content-Encoding: br",
    b"Connection: close",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Location: http://[::1",
    b"Location: \xff\x00",
    b"Set-Cookie: \xff=\x01; Expires=x",
    b"Retry-After: nan",
    b"X: y\r\n folded",
    b": empty",
    b"no colon",
    b"X\t: y",
    b"Trailer: X",
    b"Content-Type: \xff",
    b"Host: \xc3\xa9",
]
_BODIES = [
    b"",
    b"ok",
    b"2\r\nok\r\n0\r\n\r\n",
    b"2;x=y\r\nok\r\n0\r\nX: y\r\n\r\n",
    b"-1\r\n",
    b"ffffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"\x1f\x8b",
]
_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/2 200",
    b"HTTP/1.1 204 No",
    b"HTTP/1.1 304 Not",
    b"HTTP/1.1 100 C",
    b"HTTP/1.1 101 S",
    b"HTTP/1.1 103 E",
    b"HTTP/1.1 999 \xff",
    b"HTTP/1.1 000 Z",
    b"HTTP/1.1 -20 M",
    b"http/1.1 200 ok",
    b"ICY 200 OK",
]
_answers = st.builds(
    lambda line, headers, end, body: b"\r\n".join([line, *headers]) + end + body,
    st.sampled_from(_LINES),
    st.lists(st.sampled_from(_HEADERS), max_size=4),
    st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\r", b"\r\n"]),
    st.sampled_from(_BODIES),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """Up to three answers, one after the other, some octets of which are changed, gone, or twice there."""
    octets = bytearray(b"".join(draw(st.lists(_answers, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(octets) - 1)))
        until = at + draw(st.integers(0, 4))
        octets[at:until] = draw(st.one_of(st.binary(max_size=4), st.just(bytes(octets[at:until] * 2))))
    return bytes(octets)


class Client:
    """A client with a loop of its own, for what is no coroutine."""

    def __init__(self, hostile: Hostile) -> None:
        self._url = {port: hostile.url("/echo", port) for port in ("plain", "tls")}
        self._hostile = hostile
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stack = AsyncExitStack()
        self._post: Post = self._runner.run(self._open())

    async def _open(self) -> Post:
        return await self._stack.enter_async_context(client(self._hostile))

    def answer(self, octets: bytes, port: str) -> Answer:
        return self._runner.run(self._post.send(message(self._url[port], octets)))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def post(hostile: Hostile) -> Iterator[Client]:
    post = Client(hostile)
    yield post
    post.close()


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    octets=st.one_of(st.binary(min_size=1, max_size=200), _mutated().filter(bool)),
    port=st.sampled_from(["plain", "plain", "tls"]),
)
@example(octets=b"HTTP/1.1 200 OK\r\n\r\n", port="plain")
@example(octets=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1", port="plain")
@example(octets=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", port="tls")
@example(octets=b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe=\x00\r\n\r\n", port="plain")
@example(octets=b"HTTP/1.1 100 C\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\n\r\n", port="plain")
def test_any_octets_end_in_an_answer(octets: bytes, port: str, post: Client) -> None:
    """Total: a status of three digits, or a code that says that there was none; nothing is raised, and nothing waits for ever
    once the receiver has closed."""
    answer = post.answer(octets, port)
    match answer:
        case Response(status=status, body=body):
            assert (True, True) == (0 <= status <= 999, len(body) <= 4096)
            assert b"%03d" % status in octets
        case NoResponse(code=code):
            assert code in {Code.DISCONNECTED, Code.BAD_RESPONSE, Code.TOO_BIG}
        case _:
            raise AssertionError(f"nothing else can come of octets: {answer}")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.integers(200, 999),
    body=st.binary(max_size=100),
    rubbish=st.binary(max_size=100),
    port=st.sampled_from(["plain", "tls"]),
)
def test_status_stands_whatever_follows_its_answer(status: int, body: bytes, rubbish: bytes, port: str, post: Client) -> None:
    """A good answer is a good answer, also if anything comes after it, in the same segment or not."""
    answer = post.answer(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b%b" % (status, len(body), body, rubbish), port)
    assert isinstance(answer, Response)
    assert (status, b"" if status in (204, 304) else body) == (answer.status, answer.body)
