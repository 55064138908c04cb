"""A real receiver over real TLS: a merchant's endpoint that remembers what came."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

import trustme
from aiohttp import web
from multidict import CIMultiDictProxy

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Got:
    """One request as it came over the wire."""

    path: str
    headers: CIMultiDictProxy[str]
    body: bytes
    size: int
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Answers with the statuses in `statuses`, one after the other, and then with 200; or as `answer` says. `begun` is called
    when the headers of a request are there."""

    def __init__(self, authority: trustme.CA, *names: str, until: datetime | None = None) -> None:
        """Its certificate is for `names`, this machine if there are none, and ends at `until`."""
        self.requests: list[Got] = []
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.answer: Answer | None = None
        self.begun: Callable[[web.Request], None] = lambda _: None
        self.keep_bodies = True
        self.url = ""
        self._changed = asyncio.Condition()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or ("127.0.0.1", "localhost")), not_after=until).configure_cert(self._tls)
        self._runner: web.AppRunner

    async def start(self) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls, backlog=1024).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def received(self, number: int, seconds: float = 20.0) -> list[Got]:
        """Waits until `number` requests have come."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= number)
        return self.requests

    async def received_events(self, number: int, seconds: float = 60.0) -> Counter[str]:
        """Waits until requests for `number` different events have come; how many for each."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: len({got.id for got in self.requests}) >= number)
        return self.ids()

    def ids(self) -> Counter[str]:
        return Counter(got.id for got in self.requests)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        self.begun(request)
        body = await request.read()
        got = Got(request.path_qs, request.headers, body if self.keep_bodies else b"", len(body))
        async with self._changed:
            self.requests.append(got)
            self._changed.notify_all()
        if self.answer is not None:
            return await self.answer(request)
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200, headers=self.headers)
