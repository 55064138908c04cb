"""Connections that were kept open, and what is sent once more when one turns out to be dead."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from bisd.delivery.post import Post
from bisd.model import Answer, Code, NoResponse, Response
from tests.support.client import at_best, bounded, client, connections, measured, message, told
from tests.support.hostile import Hostile
from tests.support.shop import eventually

pytestmark = pytest.mark.alone

_numbers = itertools.count()
PORTS = pytest.mark.parametrize("port", ["plain", "tls"])


def resent(answer: Answer) -> bool:
    assert isinstance(answer, Response | NoResponse)
    return answer.resent


async def twice(post: Post, hostile: Hostile, path: str, port: str) -> tuple[list[Answer], list[bytes]]:
    """Two POSTs of the same message, the second when the connection of the first is free; and the requests that came."""
    path = f"{path}?{next(_numbers)}"
    asked = message(hostile.url(path, port))
    answers = [await post.send(asked), await post.send(asked)]
    return answers, await hostile.requests(path)


@PORTS
async def test_a_good_connection_is_used_again(port: str, hostile: Hostile) -> None:
    """Or none of what follows would be tested."""
    async with client(hostile) as post:
        answers, requests = await twice(post, hostile, "/ok", port)
        assert connections(hostile) == 1
    assert ([200, 200], [False, False], 2) == (list(map(told, answers)), list(map(resent, answers)), len(requests))
    first, second = answers
    assert isinstance(first, Response) and isinstance(second, Response)
    assert (True, port == "tls") == (first.timings.connect is not None, first.timings.tls is not None)
    assert (None, None, None) == second.timings[:3]


@PORTS
async def test_what_took_the_time_is_told(port: str, hostile: Hostile) -> None:
    """A receiver that accepts a connection and says nothing: over TLS the time went into the handshake, and connecting took
    next to nothing; without, into waiting for the answer."""
    async with client(hostile) as post:
        scheme = "https" if port == "tls" else "http"
        answer = await post.send(message(f"{scheme}://127.0.0.1:{hostile.ports['silent']}/"))
    assert isinstance(answer, NoResponse)
    assert answer.timings.connect is not None and answer.timings.connect < 250
    if port == "tls":
        assert answer.timings.tls is not None and answer.timings.tls > 500
    else:
        assert answer.timings.tls is None
    assert answer.timings.total > 500


@PORTS
@pytest.mark.parametrize("path", ["/closes_reused", "/resets_reused"])
async def test_stale_connection_costs_one_resend(path: str, port: str, hostile: Hostile) -> None:
    """It ends just as our request comes, without an octet of an answer: the same octets go out once more, on a new connection,
    at once, and the attempt says so."""

    async def go() -> tuple[None, list[str]]:
        async with client(hostile) as post, measured() as cost:
            answers, requests = await twice(post, hostile, path, port)
        assert ([200, 200], [False, True], 3) == (list(map(told, answers)), list(map(resent, answers)), len(requests))
        assert len(set(requests)) == 1
        return None, bounded(cost, 0.0)  # no waiting

    assert (None, []) == await at_best(go)


@PORTS
async def test_receiver_that_always_closes_gets_two_requests_per_attempt(port: str, hostile: Hostile) -> None:
    """The resend is not resent."""
    async with client(hostile) as post:
        answers, requests = await twice(post, hostile, "/closes_always", port)
    assert ([200, Code.DISCONNECTED], [False, True]) == (list(map(told, answers)), list(map(resent, answers)))
    assert (3, 1) == (len(requests), len(set(requests)))


@PORTS
@pytest.mark.parametrize("path", ["/empty", "/reset"])
async def test_new_connection_that_ends_costs_no_resend(path: str, port: str, hostile: Hostile) -> None:
    """The receiver may have taken it: one request per attempt."""
    async with client(hostile) as post:
        answers, requests = await twice(post, hostile, path, port)
    assert ([Code.DISCONNECTED] * 2, [False] * 2, 2) == (list(map(told, answers)), list(map(resent, answers)), len(requests))


@PORTS
async def test_one_octet_of_an_answer_forbids_a_resend(port: str, hostile: Hostile) -> None:
    """It was at work on our request when it died."""
    async with client(hostile) as post:
        answers, requests = await twice(post, hostile, "/one_octet_reused", port)
    assert ([200, Code.DISCONNECTED], [False] * 2, 2) == (list(map(told, answers)), list(map(resent, answers)), len(requests))


@PORTS
async def test_silence_on_a_kept_connection_is_a_timeout_and_no_resend(port: str, hostile: Hostile) -> None:
    """It may be at work on it."""
    async with client(hostile) as post:
        answers, requests = await twice(post, hostile, "/hangs_reused", port)
    assert ([200, Code.TIMEOUT], [False] * 2, 2) == (list(map(told, answers)), list(map(resent, answers)), len(requests))


async def test_resend_has_what_time_is_left(hostile: Hostile) -> None:
    """The timeout covers both requests: it is not begun again."""

    async def go() -> tuple[None, list[str]]:
        async with client(hostile) as post, measured() as cost:
            answers, requests = await twice(post, hostile, "/closes_then_hangs", "plain")
        assert ([200, Code.TIMEOUT], [False, True], 3) == (list(map(told, answers)), list(map(resent, answers)), len(requests))
        return None, bounded(cost)

    assert (None, []) == await at_best(go)


@PORTS
async def test_connection_closed_while_idle_is_not_used(port: str, hostile: Hostile) -> None:
    """We see it close: the next request goes out once, on a new one."""
    async with client(hostile) as post:
        asked = message(hostile.url(f"/closes_idle?idle-{port}", port))
        first = await post.send(asked)
        await eventually(lambda: _are(hostile, 0), 2)
        second = await post.send(asked)
    assert ([200, 200], [False, False]) == ([told(first), told(second)], [resent(first), resent(second)])
    assert len(await hostile.requests(f"/closes_idle?idle-{port}")) == 2


@PORTS
@pytest.mark.parametrize("path", ["/extra", "/extra_partial", "/extra_at_once", "/extra_garbage", "/many_answers", "/upgrade"])
async def test_what_nobody_asked_for_answers_nothing(path: str, port: str, hostile: Hostile) -> None:
    """Octets after an answer end its connection, and are never taken for the answer to the next request."""
    async with client(hostile) as post:
        first = await post.send(message(hostile.url(path, port)))
        await eventually(lambda: _are(hostile, 0), 2)
        second = await post.send(message(hostile.url("/ok", port)))
    assert (101 if path == "/upgrade" else 200, 200) == (told(first), told(second))


@PORTS
async def test_a_hundred_at_once_each_get_their_own_answer(port: str, hostile: Hostile) -> None:
    """Kept connections that die under many requests at once: each is resent once at most, and all arrive."""
    async with client(hostile, seconds=10) as post:
        asked = message(hostile.url(f"/closes_reused?many-{port}", port))
        for expected in ({False}, {True}):
            answers = await asyncio.gather(*(post.send(asked) for _ in range(100)))
            assert ({200}, expected) == (set(map(told, answers)), set(map(resent, answers)))
    assert len(await hostile.requests(f"/closes_reused?many-{port}")) == 300


async def _are(hostile: Hostile, number: int) -> bool:
    return connections(hostile) == number
