"""One connection of the HTTP face. aiohttp bounds what a request is; here are the bounds of time and number, so that whoever
opens connections and says nothing, or does not read, keeps nobody else out for long."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from bisd import log
from bisd.admin import problem
from bisd.admin.guard import secure

MOST = 100
# Seconds: for a request's headers, and between two requests; for a body that nobody reads; for an answer to be taken.
IDLE = 10.0
_LINGER = 1.0
TAKEN_WITHIN = 5.0


class Connection(RequestHandler):
    """What is beyond the bounds is closed without a word."""

    __slots__ = ("_log", "_server")

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._log = log.get()
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=cast(Any, None),
            # aiohttp counts it from when the connection was made, too: it bounds the headers of the first request.
            keepalive_timeout=IDLE,
            lingering_time=_LINGER,
            auto_decompress=False,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._server.connections) >= MOST:
            cast(asyncio.Transport, transport).abort()
        else:
            super().connection_made(transport)

    async def start(self) -> None:
        try:
            await super().start()
        except ValueError:  # a target that the parser takes and yarl cannot read: aiohttp would leave the connection open
            self._abort()

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            async with asyncio.timeout(TAKEN_WITHIN):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self._abort()
            raise ConnectionResetError from None

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is no request, and what is a fault of ours: told by its status, and nothing else."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and exc is not None:
            self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionResetError  # an answer has begun: there is no other one to be given
        phrase = HTTPStatus(status).phrase
        told = problem.is_told(request.path)
        answer = problem.respond(status, f"{phrase}.") if told else web.Response(status=status, text=f"{status}: {phrase}")
        secure(answer.headers)
        answer.force_close()
        return answer

    def log_exception(self, *_: Any, exc_info: BaseException | None = None, **__: Any) -> None:
        """As all faults of ours: without its text, which may quote a request."""
        fault = exc_info or RuntimeError()
        self._log.error(log.Event.INTERNAL_FAULT, error=type(fault).__name__, where=log.place(fault))

    def _abort(self) -> None:
        """At once: whoever does not read would have us keep what is unsent."""
        transport = self.transport
        if transport is not None:
            transport.abort()
        self.force_close()
