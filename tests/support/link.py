"""The line between a daemon and its database, and what can happen to one: it goes silent without an end (every probe is
answered, and nothing else), it is slow, reset, half closed, or refused."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

# More than any answer has: what is late is late as a whole.
_MOST = 32 << 20
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass
class _Way:
    """What holds for one direction of all lines: whether anything passes, and how many seconds late."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay: float = 0.0

    def __post_init__(self) -> None:
        self.open.set()


class Link:
    """Passes on what comes to a port of its own to the server's Unix socket, until something happens to it. `thaw` and `start`
    end whatever does not end a line."""

    def __init__(self, dsn: str) -> None:
        self._dsn = urlsplit(dsn)
        self._socket = parse_qs(self._dsn.query)["host"][0] + "/.s.PGSQL.5432"
        self._asking, self._answering = _Way(), _Way()
        self._dead: list[_Way] = []
        self._server: asyncio.Server
        self._lines: dict[asyncio.StreamWriter, asyncio.StreamWriter | None] = {}
        self._port = 0
        self.dsn = ""

    async def start(self) -> None:
        """After a stop, or a refusal, at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{self._dsn.username}@{self.address}{self._dsn.path}"

    @property
    def address(self) -> str:
        """For a DSN that names several."""
        return f"127.0.0.1:{self._port}"

    def freeze(self, *, questions: bool = True, answers: bool = True) -> None:
        """From here on no questions pass, or no answers, or neither: on lines that there are, and on new ones. None is
        closed."""
        if questions:
            self._asking.open.clear()
        if answers:
            self._answering.open.clear()

    def strand(self) -> None:
        """Lines that are frozen stay so until the stop; new ones pass. As when a router on the way has forgotten them."""
        self._dead += (self._asking, self._answering)
        self._asking, self._answering = _Way(), _Way()

    def delay(self, seconds: float) -> None:
        """From here on every answer is late by so much."""
        self._answering.delay = seconds

    def thaw(self) -> None:
        """Everything passes, at once."""
        self.delay(0.0)
        self._asking.open.set()
        self._answering.open.set()

    def reset(self) -> None:
        """RST to the daemon on every line that there is; new ones pass."""
        for client, server in list(self._lines.items()):
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            for writer in (client, server):
                if writer is not None:
                    writer.transport.abort()

    def half_close(self) -> None:
        """FIN to the daemon on every line that there is, as if the server had said its last word; questions still pass."""
        for client in self._lines:
            if client.can_write_eof() and not client.is_closing():
                client.write_eof()

    def refuse(self) -> None:
        """From here on nobody listens; lines that there are go on. See start."""
        self._server.close()

    async def stop(self) -> None:
        """It is refused, and what lines there are end in order."""
        self.thaw()
        for way in self._dead:
            way.open.set()
        self.refuse()
        for line in list(self._lines.items()):
            for writer in line:
                if writer is not None:
                    writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines[writer] = None
        asking, answering = self._asking, self._answering
        await asking.open.wait()
        with suppress(OSError):
            theirs, ours = await asyncio.open_unix_connection(self._socket, limit=_MOST)
            self._lines[writer] = ours
            await asyncio.gather(self._pass(reader, ours, asking), self._pass(theirs, writer, answering))
        del self._lines[writer]
        writer.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: _Way) -> None:
        # A line that is half closed takes no more (RuntimeError), and is listened to as before.
        with suppress(OSError):
            while octets := await source.read(_MOST):
                if way.delay:
                    await asyncio.sleep(way.delay)
                await way.open.wait()
                with suppress(RuntimeError):
                    sink.write(octets)
                    await sink.drain()
        await way.open.wait()
        sink.close()
