"""A client for POSTs, out of aiohttp's parts: its connector (the pool, names, TLS, the proxy) and its parser of answers.

aiohttp's own session makes a request, a response and a good many decisions for every POST, that are for requests more various
than ours: half of the time that a delivery takes. What lies between a connection and its answer is done here instead, and so
is what aiohttp leaves open to a hostile receiver.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple

import aiohttp
import uvloop
from aiohttp import hdrs
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.helpers import _EXC_SENTINEL as _NO_CAUSE
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.http_writer import _serialize_headers
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from yarl import URL

from bisd.model import Message
from bisd.watch import Watch

_MOST_INTERIM = 8
_MOST_HEADERS = 64
# So many octets of an answer wait to be read, about, before no more are received.
_BUFFER = 1 << 14
# What comes at once is parsed in pieces of so many octets; and a segment costs as much as so many more, however few it brings.
_PIECE = 1 << 14
_SEGMENT = 32
_WITHOUT_BODY = (b"204", b"304")
# Octets on the wire that are in no answer, at most: a few session tickets, a key update now and then.
_MOST_UNSEEN = 1 << 14
_NO_TRACES: list[Trace] = []


class Destination(aiohttp.ClientRequest):
    """Where a URL leads, as aiohttp's connector is asked for it, and what is requested there. Made once per URL."""

    def __init__(self, url: URL, target: str, proxy: URL | None) -> None:
        # Certificates name a host without the dot that ends it.
        name = (url.raw_host or "").rstrip(".")
        super().__init__(hdrs.METH_POST, url, proxy=proxy, loop=asyncio.get_running_loop(), server_hostname=name)
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
    and the protocol that its answer comes in by. `fresh`: it is to be a new one. `secured_from`: when TLS began (monotonic).
    `dialled`: the sockets of a connection that is being made, and whether one was `handed` to the loop.
    """

    __slots__ = ("dns", "connect", "tls", "secured_from", "fresh", "handler", "dialled", "handed")

    def __init__(self, fresh: bool = False) -> None:
        self.dns: float | None = None
        self.connect: float | None = None
        self.tls: float | None = None
        self.secured_from: float | None = None
        self.fresh = fresh
        self.handler: Handler | None = None
        self.dialled: list[socket.socket] = []
        self.handed = False

    @property
    def stale(self) -> bool:
        """Whether an open connection was used, and ended without a byte of an answer."""
        return self.connect is None and self.handler is not None and self.handler.octets <= 0


_notes: ContextVar[Notes] = ContextVar("bisd_notes")


class Securing(ssl.SSLContext):
    """Puts down, in the notes of the attempt that it is for, when a handshake begins."""

    def wrap_bio(self, *arguments: Any, **settings: Any) -> ssl.SSLObject:
        _notes.get().secured_from = monotonic()
        return super().wrap_bio(*arguments, **settings)


class TooBig(aiohttp.ClientPayloadError):
    """An answer has more octets on the wire than anybody should send: in headers, framing, trailers or before its status."""


_receive = ResponseHandler.data_received
_UNASKED = -1


class Handler(ResponseHandler):
    """Writes requests, receives answers, and counts what each costs: octets after TLS, and interim answers (1xx), of which
    aiohttp takes any number. Beyond the bounds it ends the connection, as it does when something comes that nobody asked for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, watch: Watch) -> None:
        super().__init__(loop)
        self.octets = 0
        self._posts = self._before = 0
        self._most = most
        self._interim = 0
        self._watch = watch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if transport.get_extra_info("sslcontext") is not None:
            self._watch.add(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._watch.discard(self)
        super().connection_lost(exc)

    def account_for(self, received: int) -> None:
        """So many octets have come in, TLS and all. Ends the connection if that is much more than there were answers."""
        if received > _MOST_UNSEEN + 2 * (self._before + max(0, self.octets)):
            self._give_up()

    @property
    def idle(self) -> bool:
        """Whether all of the request has gone out: a receiver that answers and does not read would have us keep it."""
        transport = self.transport
        return transport is not None and transport.get_write_buffer_size() == 0

    def post(self, request: bytes) -> None:
        """Writes it with the other requests that this turn of the loop composes, once they all are: written one by one in
        between, each would wake a receiver on the same machine for itself (measured: 23 us more per request)."""
        self._posts += 1
        self._before += max(0, self.octets)
        self.octets = _UNASKED
        self._interim = 0
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
            if 4 < head < size and (
                data.find(b"\r\nContent-Length: %d\r\n" % (size - head), 0, head) < 0 or data[9:12] in _WITHOUT_BODY
            ):
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
        elif self.octets == _UNASKED:
            # Before our request has been written. On a new connection whatever speaks first speaks no HTTP.
            self.set_exception(HttpProcessingError() if self._posts == 1 else aiohttp.ClientConnectionResetError())
            self._end()
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
            self._receive_interim(data[0].code)
        if self._interim > _MOST_INTERIM:
            self._give_up()
        else:
            super().feed_data(data, size)

    def _receive_interim(self, status: int) -> None:
        if _is_interim(status):
            self._interim += 1
            self._payload = None
        else:
            self.force_close()  # 101, or nonsense: whatever it speaks now, nobody asked for it

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _NO_CAUSE) -> None:
        """A status that has come stands, and so does what has come of its body: whoever reads that need not wait for more."""
        super().set_exception(exc, exc_cause)
        payload = self._payload
        if payload is not None and not payload.is_eof():
            payload.feed_eof()

    def _write(self, request: bytes) -> None:
        """Does not wait until it has gone out: a receiver may answer before it has read everything."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            self.octets = 0
            transport.write(request)
        elif self.exception() is None:
            self.set_exception(aiohttp.ClientConnectionResetError("closed before the request was written"))

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
        if self.is_connected():
            self.set_exception(TooBig("the answer is out of bounds"))
            self._end()

    def _end(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.abort()


class Connector(aiohttp.TCPConnector):
    """aiohttp's, with what a new connection cost put down in the attempt's notes. `most`: octets of one answer."""

    def __init__(self, most: int, open_socket: Callable[[aiohttp.AddrInfoType], socket.socket], **settings: Any) -> None:
        super().__init__(socket_factory=self._dial, **settings)
        self._open_socket = open_socket
        self._make_handler = functools.partial(Handler, self._loop, most, Watch(self._loop))
        self._factory = self._hand  # type: ignore[assignment]

    def _dial(self, info: aiohttp.AddrInfoType) -> socket.socket:
        opened = self._open_socket(info)
        _notes.get().dialled.append(opened)
        return opened

    def _hand(self) -> Handler:
        """What the loop asks for first, when it is given a socket that is connected."""
        _notes.get().handed = True
        return self._make_handler()

    async def _wrap_create_connection(self, *arguments: Any, **settings: Any) -> tuple[asyncio.Transport, ResponseHandler]:
        """The descriptor of a connection that fails is closed by the loop, if it was handed to it; uvloop (0.23) does not tell
        the socket so where the peer has reset it at once. Closed again with the socket, it would be somebody else's by then.
        (asyncio's own loop closes the socket itself.)"""
        notes = _notes.get()
        notes.dialled, notes.handed = [], False
        made = None
        try:
            made = await super()._wrap_create_connection(*arguments, **settings)
        finally:
            dialled, notes.dialled = notes.dialled, []
            if made is None:
                for one in dialled:
                    if not notes.handed:
                        one.close()
                    elif isinstance(self._loop, uvloop.Loop):
                        one.detach()
        return made

    def _get(self, key: ConnectionKey, traces: list[Trace]) -> Awaitable[Connection | None]:  # type: ignore[override]
        return _none() if _notes.get().fresh else super()._get(key, traces)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        began = monotonic()
        try:
            return await super()._create_connection(req, traces, timeout)
        finally:
            notes, ended = _notes.get(), monotonic()
            connected = ended if notes.secured_from is None else notes.secured_from
            notes.connect = (connected - began) * 1000 - (notes.dns or 0.0)
            notes.tls = None if notes.secured_from is None else (ended - notes.secured_from) * 1000

    async def _create_direct_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
        *,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """That our proxy cannot be reached, for whatever reason, is no merchant's fault: one error says so."""
        try:
            return await super()._create_direct_connection(req, traces, timeout, client_error=client_error)
        except (aiohttp.ClientConnectorError, TimeoutError) as fault:
            if client_error is not aiohttp.ClientProxyConnectionError:
                raise
            raise aiohttp.ClientProxyConnectionError(req.connection_key, OSError("no way to the proxy")) from fault

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
        """The connection is kept if all has been written and all been read: it is not worth what may still come."""
        handler = self.connection.protocol
        if self.content.at_eof() and isinstance(handler, Handler) and handler.idle:
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

    async def reach(self, destination: Destination, timeout: aiohttp.ClientTimeout, notes: Notes) -> None:
        """Connects, as `post` does, and hangs up."""
        _notes.set(notes)
        try:
            connection = await self._connector.connect(destination, _NO_TRACES, timeout)
        except TimeoutError as late:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from late
        connection.close()

    async def close(self) -> None:
        await self._connector.close()


def _is_interim(status: int) -> bool:
    """Whether the answer is still to come. After 101 there is none: nobody asked for another protocol."""
    return 100 <= status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS
