"""A client for POSTs, out of aiohttp's parts: its connector (the pool, names, TLS, the proxy) and its parser of answers.

aiohttp's own session makes a request, a response and a good many decisions for every POST, that are for requests more various
than ours: half of the time that a delivery takes. What lies between a connection and its answer is done here instead, and so
is what aiohttp leaves open to a hostile receiver.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_writer import _serialize_headers
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from yarl import URL

from bisd.model import Message

_MOST_INTERIM = 8
_MOST_HEADERS = 64
# So many octets of an answer wait to be read, about, before no more are received.
_BUFFER = 1 << 14
# What comes at once is parsed in pieces of so many octets; and a segment costs as much as so many more, however few it brings.
_PIECE = 1 << 14
_SEGMENT = 32
_NO_TRACES: list[Trace] = []


class Destination(aiohttp.ClientRequest):
    """Where a URL leads, as aiohttp's connector is asked for it, and what is requested there. Made once per URL."""

    def __init__(self, url: URL, target: str, proxy: URL | None) -> None:
        super().__init__(hdrs.METH_POST, url, proxy=proxy, loop=asyncio.get_running_loop())
        self._request_line = f"POST {target} HTTP/1.1"
        self._host = self.headers[hdrs.HOST]

    @functools.cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key

    def request(self, message: Message) -> bytes:
        """The octets of the message's POST: its headers as they are, and its body."""
        headers = {hdrs.HOST: self._host, **message.headers, hdrs.CONTENT_LENGTH: str(len(message.body))}
        return _serialize_headers(self._request_line, headers) + message.body  # type: ignore[arg-type]  # any mapping will do


class Notes:
    """What one attempt knows of its connection: how long it took to get it, in milliseconds, None where it was open already;
    and the protocol that its answer comes in by. `fresh`: it is to be a new one."""

    __slots__ = ("dns", "connect", "fresh", "handler")

    def __init__(self, fresh: bool = False) -> None:
        self.dns: float | None = None
        self.connect: float | None = None
        self.fresh = fresh
        self.handler: Handler | None = None

    @property
    def stale(self) -> bool:
        """Whether an open connection was used, and ended without a byte of an answer."""
        return self.connect is None and self.handler is not None and self.handler.octets == 0


_notes: ContextVar[Notes] = ContextVar("bisd_notes")


class TooBig(aiohttp.ClientPayloadError):
    """An answer has more octets on the wire than anybody should send: in headers, framing, trailers or before its status."""


_receive = ResponseHandler.data_received


class Handler(ResponseHandler):
    """Writes requests, receives answers, and counts what each costs: octets after TLS, and interim answers (1xx), of which
    aiohttp takes any number. Beyond the bounds it ends the connection, as it does when something comes that nobody asked for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(loop)
        self.octets = 0
        self._most = most
        self._interim = 0

    def post(self, request: bytes) -> None:
        """Writes it with the other requests that this turn of the loop composes, once they all are: written one by one in
        between, each would wake a receiver on the same machine for itself (measured: 23 us more per request)."""
        self.octets = self._interim = 0
        self._payload = None
        self.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=_BUFFER, max_headers=_MOST_HEADERS)
        self._loop.call_soon(self._write, request)

    def expire(self) -> None:
        """The time for an answer is over."""
        self.set_exception(TimeoutError())

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if self.octets == 0 and 0 < size <= _PIECE:
            self.octets = size + _SEGMENT
            head = data.find(b"\r\n\r\n") + 4
            if 4 < head < size and data.find(b"\r\nContent-Length: %d\r\n" % (size - head), 0, head) < 0:
                # What follows is not just the body: aiohttp forgets an answer where in the same segment comes what is no HTTP.
                _receive(self, data[:head])
                self.data_received(data[head:])
            else:
                _receive(self, data)
        else:
            self._receive_more(data)

    def _receive_more(self, data: bytes) -> None:
        """What is not the first segment of an answer."""
        if not data:
            _receive(self, data)  # nothing has come: aiohttp has a parser go on that it had paused
        elif len(data) > _PIECE:
            self._split(data)
        elif self._payload is not None and self._payload.is_eof():
            self._end()  # the answer has ended: this would be taken for that to the next request
        else:
            self.octets += len(data) + _SEGMENT
            if self.octets > self._most:
                self._give_up()
            else:
                _receive(self, data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if _is_interim(data[0].code):
            self._interim += 1
            self._payload = None
        if self._interim > _MOST_INTERIM:
            self._give_up()
        else:
            super().feed_data(data, size)

    def _write(self, request: bytes) -> None:
        """Does not wait until it has gone out: a receiver may answer before it has read everything."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self.set_exception(aiohttp.ClientConnectionResetError("closed before the request was written"))
        else:
            transport.write(request)

    def close(self) -> None:
        """At once: a peer that does not read, or does not end TLS as it should, would keep it open, and may go on sending."""
        self.abort()

    def _split(self, data: bytes) -> None:
        """So that what is out of bounds is seen before all of it has been parsed."""
        for begin in range(0, len(data), _PIECE):
            if not self.is_connected():
                return
            self.data_received(data[begin : begin + _PIECE])

    def _give_up(self) -> None:
        """A status that has come stands, and so does what has come of its body."""
        if not self.is_connected():
            return
        payload, self._payload = self._payload, None
        self.set_exception(TooBig("the answer is out of bounds"))
        if payload is not None and not payload.is_eof():
            payload.feed_eof()
        self._end()

    def _end(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.abort()


class Connector(aiohttp.TCPConnector):
    """aiohttp's, with what a new connection cost put down in the attempt's notes. `most`: octets of one answer."""

    def __init__(self, most: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = functools.partial(Handler, self._loop, most)  # type: ignore[assignment]

    def _get(self, key: ConnectionKey, traces: list[Trace]) -> Awaitable[Connection | None]:  # type: ignore[override]
        return _none() if _notes.get().fresh else super()._get(key, traces)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        began = monotonic()
        try:
            return await super()._create_connection(req, traces, timeout)
        finally:
            notes = _notes.get()
            notes.connect = (monotonic() - began) * 1000 - (notes.dns or 0.0)

    async def _resolve_host(self, host: str, port: int, traces: Sequence[Trace] | None = None) -> list[ResolveResult]:
        began = monotonic()
        try:
            return await super()._resolve_host(host, port, traces)
        finally:
            _notes.get().dns = (monotonic() - began) * 1000


async def _none() -> None:
    """No connection that is open already."""


class Reply(NamedTuple):
    """The head of an answer; its body as far as it has come; and the connection, to be closed, or released for the next."""

    head: RawResponseMessage
    content: StreamReader
    connection: Connection

    def end(self) -> None:
        """The connection is kept if all of the answer has been read: it is not worth what may still come."""
        if self.content.at_eof():
            self.connection.release()
        else:
            self.connection.close()


class Client:
    """POSTs. Close it in the end."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()

    async def post(self, destination: Destination, message: Message, timeout: aiohttp.ClientTimeout, notes: Notes) -> Reply:
        """Answers when the head of the answer has come, interim ones aside; `timeout.connect` seconds for all of it. Raises
        aiohttp.ClientError, aiohttp.http.HttpProcessingError, TimeoutError or OSError."""
        _notes.set(notes)
        began = self._loop.time()
        try:
            connection = await self._connector.connect(destination, _NO_TRACES, timeout)
        except TimeoutError as late:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from late
        handler = connection.protocol
        assert isinstance(handler, Handler) and timeout.connect is not None
        notes.handler = handler
        timer = self._loop.call_at(began + timeout.connect, handler.expire)
        reply: Reply | None = None
        try:
            handler.post(destination.request(message))
            head, content = await handler.read()
            while _is_interim(head.code):
                head, content = await handler.read()
            reply = Reply(head, content, connection)
        finally:
            timer.cancel()
            if reply is None:
                connection.close()
        return reply

    async def close(self) -> None:
        await self._connector.close()


def _is_interim(status: int) -> bool:
    """Whether the answer is still to come. After 101 there is none: nobody asked for another protocol."""
    return 100 <= status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS
