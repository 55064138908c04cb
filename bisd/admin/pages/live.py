"""What happens while somebody looks at a page: told as it happens (server-sent events), by a word that says 'look' and nothing
else. Whoever looks at the same account shares one question a second; streams are few, and end when the daemon does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from time import monotonic, time

from aiohttp import hdrs, web

from bisd import insight
from bisd.admin.connection import TAKEN_WITHIN
from bisd.admin.pages.rendering import refuse
from bisd.admin.pages.site import Asked
from bisd.errors import DatabaseAwayError

# Of a hundred connections that there may be: streams in all, and of one account, or of the operator.
MOST = 40
MOST_OF_ONE = 10
# Seconds: from look to look; the operator's pages are always news, that often; what keeps a stream from looking dead; and how
# long one may be, then the browser opens another one.
_EVERY = 1.0
_OPERATORS = 2.0
_HEARTBEAT = 15.0
_LONGEST = 600.0
_FULL = 10
_LOOK, _BEAT = b"event: changed\ndata:\n\n", b": \n\n"


class Live:
    def __init__(self) -> None:
        self._streams: Counter[int | None] = Counter()
        self._stamps: dict[int, tuple[float, str]] = {}
        self._asking = asyncio.Lock()

    async def stream(self, asked: Asked) -> web.StreamResponse:
        """Answers until the daemon ends, the session is over, nobody reads, or it has been long."""
        if asked.request.method != hdrs.METH_GET:
            raise web.HTTPMethodNotAllowed(asked.request.method, [hdrs.METH_GET])
        viewer = asked.viewer.account_id
        if self._streams.total() >= MOST or self._streams[viewer] >= MOST_OF_ONE:
            answer = refuse(HTTPStatus.SERVICE_UNAVAILABLE, "refused.busy")
            answer.headers[hdrs.RETRY_AFTER] = str(_FULL)
            return answer
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream"})
        with self._counted(viewer), suppress(ConnectionError):
            await response.prepare(asked.request)
            await _send(asked, response, _BEAT)
            await self._tell(asked, response)
        return response

    async def _tell(self, asked: Asked, response: web.StreamResponse) -> None:
        ends = monotonic() + min(_LONGEST, asked.viewer.until - time())
        known, told_at = await self._stamp(asked), monotonic()
        while monotonic() < ends and not await _has_stopped(asked):
            stamp = await self._stamp(asked)
            if stamp != known or monotonic() - told_at >= _HEARTBEAT:
                await _send(asked, response, _BEAT if stamp == known else _LOOK)
                known, told_at = stamp, monotonic()

    async def _stamp(self, asked: Asked) -> str:
        """What is another text when there is news: asked once a second, whoever wants to know."""
        if asked.account is None:
            return str(int(monotonic() / _OPERATORS))
        async with self._asking:
            at, stamp = self._stamps.get(asked.account_id, (0.0, ""))
            if monotonic() - at < _EVERY / 2:
                return stamp
            with suppress(DatabaseAwayError):
                async with asked.site.desk.connection() as connection:
                    stamp = await insight.stamp(connection, asked.account_id)
            self._stamps[asked.account_id] = (monotonic(), stamp)
            return stamp

    @contextmanager
    def _counted(self, viewer: int | None) -> Iterator[None]:
        self._streams[viewer] += 1
        try:
            yield
        finally:
            self._streams[viewer] -= 1
            if not self._streams.total():
                self._stamps.clear()


async def _has_stopped(asked: Asked) -> bool:
    """Whether the daemon ends, or nobody is there any more; waited for until the next look."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_EVERY):
            await asked.site.stop.wait()
    transport = asked.request.transport
    return asked.site.stop.is_set() or transport is None or transport.is_closing()


async def _send(asked: Asked, response: web.StreamResponse, octets: bytes) -> None:
    """Raises ConnectionError. What is not taken within the time that any answer has ends the connection (connection.py)."""
    try:
        async with asyncio.timeout(TAKEN_WITHIN):
            await response.write(octets)
    except TimeoutError:
        if asked.request.transport is not None:
            asked.request.transport.abort()
        raise ConnectionAbortedError from None
