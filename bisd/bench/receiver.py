"""The other side, where an answer must wait, hang or be stamped: a process of its own that costs next to nothing.

    python -m bisd.bench.receiver SERVER.PEM

Prints its ports as JSON, and ends when its standard input does. The path says what becomes of a request: /now/...,
/wait/MS/..., /hang/..., /close/... (answered at once, and the connection closed). GET /taken answers what has come since it
was last asked.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from time import time
from typing import Any, cast

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_BACKLOG = 4096


class Taken:
    """What has come: of each request its path, its webhook-id, the notification that it is about, and when it came."""

    def __init__(self) -> None:
        self.stamps: list[tuple[str, str, int, float]] = []
        self.in_flight = 0
        self.peak = 0

    def begin(self) -> None:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def take(self) -> bytes:
        body = json.dumps({"peak": self.peak, "stamps": self.stamps}).encode()
        self.stamps, self.peak = [], self.in_flight
        return body


class Exchange(asyncio.Protocol):
    """One connection. It reads what bisd and aiohttp send, a request at a time, and no more of HTTP than that takes."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._buffer = b""
        self._waiting = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def connection_lost(self, fault: Exception | None) -> None:
        if self._waiting:
            self._taken.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        length = end + 4 + int(_header(head, b"Content-Length") or 0)
        if len(self._buffer) < length:
            return
        request, self._buffer = self._buffer[:length], self._buffer[length:]
        self._serve(head, request[end + 4 :], time())

    def _serve(self, head: bytes, body: bytes, now: float) -> None:
        path = head[head.index(b" ") + 1 : head.index(b" HTTP/")].decode()
        if path == "/taken":
            answer = self._taken.take()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
            return
        self._waiting = True
        self._taken.begin()
        self._taken.stamps.append((path, _header(head, b"webhook-id").decode(), _notification(body), now))
        match path.split("/")[1]:
            case "hang":
                pass
            case "wait":
                asyncio.get_running_loop().call_later(int(path.split("/")[2]) / 1000, self._answer, _ANSWER)
            case "close":
                self._answer(_CLOSING)
                self._transport.close()
            case _:
                self._answer(_ANSWER)

    def _answer(self, answer: bytes) -> None:
        if self._waiting and not self._transport.is_closing():
            self._waiting = False
            self._taken.in_flight -= 1
            self._transport.write(answer)


def _header(head: bytes, name: bytes) -> bytes:
    """The value of a header, written as bisd and aiohttp write it; nothing if there is none."""
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


def _notification(body: bytes) -> int:
    return int(body.partition(b'"notification_id":')[2].partition(b",")[0] or 0)


async def serve(certificate: str) -> None:
    loop = asyncio.get_running_loop()
    taken = Taken()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    ports = {}
    for scheme, context in (("http", None), ("https", tls)):
        server = await loop.create_server(lambda: Exchange(taken), "127.0.0.1", 0, backlog=_BACKLOG, ssl=context)
        ports[scheme] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    ended = asyncio.Event()
    reader: Any = sys.stdin.fileno()
    loop.add_reader(reader, ended.set)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
