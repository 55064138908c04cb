"""What aiohttp's client is told to do differently, by the classes it lets its users replace."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from time import monotonic
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_writer import StreamWriter, _serialize_headers
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from multidict import CIMultiDict

from bisd.model import Message

_MOST_INTERIM = 8
# What comes at once is parsed in pieces of so many octets; and a segment costs as much as so many more, however few it brings.
_PIECE = 1 << 14
_SEGMENT = 32


class Request(aiohttp.ClientRequest):
    """A POST of a Message, given as `data` with the target to POST it to: its headers as they are and its body in one write.

    aiohttp's own request copies the headers twice, wraps the body in a payload and on Python 3.11 starts a task to write
    it. All of it is for requests more various than ours; it was a fifth of the time of a delivery.
    """

    _message: Message
    _target: str

    def update_headers(self, headers: object) -> None:
        self.headers = CIMultiDict()
        self.headers[hdrs.HOST] = self.url.host_port_subcomponent or ""

    def update_auto_headers(self, skip_auto_headers: object) -> None:
        """None: the message says all."""

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        self._message, self._target = body
        self.headers.extend(self._message.headers)
        self.headers[hdrs.CONTENT_LENGTH] = str(len(self._message.body))

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        assert isinstance(protocol, Handler)
        connecting.get().handler = protocol
        head = _serialize_headers(f"POST {self._target} HTTP/1.1", self.headers)
        # With the other requests that this turn of the loop composes, once they all are: written one by one in between,
        # each would wake a receiver on the same machine for itself (measured: 23 us more per request).
        self.loop.call_soon(protocol.write, head + self._message.body)
        return self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=self._traces,
            loop=self.loop,
            session=self._session,
            stream_writer=StreamWriter(protocol, self.loop),
        )


class Connecting:
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


connecting: ContextVar[Connecting] = ContextVar("bisd_connecting")


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

    def write(self, request: bytes) -> None:
        """Does not wait until it has gone out: a receiver may answer before it has read everything."""
        self.octets = self._interim = 0
        self._payload = None
        transport = self.transport
        if transport is None or transport.is_closing():
            self.set_exception(aiohttp.ClientConnectionResetError("closed before the request was written"))
        else:
            transport.write(request)

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
        if data[0].code < 200:
            self._interim += 1
            if data[0].code != 101:
                self._payload = None  # the answer is still to come
        if self._interim > _MOST_INTERIM:
            self._give_up()
        else:
            super().feed_data(data, size)

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
    """Notes on `connecting` what a new connection cost. Trace signals would cost something on every open one too. `most`:
    octets of one answer."""

    def __init__(self, most: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = functools.partial(Handler, self._loop, most)  # type: ignore[assignment]

    def _get(self, key: ConnectionKey, traces: list[Trace]) -> Awaitable[Connection | None]:  # type: ignore[override]
        return _none() if connecting.get().fresh else super()._get(key, traces)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        began = monotonic()
        try:
            return await super()._create_connection(req, traces, timeout)
        finally:
            notes = connecting.get()
            notes.connect = (monotonic() - began) * 1000 - (notes.dns or 0.0)

    async def _resolve_host(self, host: str, port: int, traces: Sequence[Trace] | None = None) -> list[ResolveResult]:
        began = monotonic()
        try:
            return await super()._resolve_host(host, port, traces)
        finally:
            connecting.get().dns = (monotonic() - began) * 1000


async def _none() -> None:
    """No connection that is open already."""
