"""A pooler in front of PostgreSQL, as PgBouncer is one: whoever ends a transaction gives the server's session away, and gets
another one for the next, or keeps it for as long as he is there."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

_SSL_REQUEST = 80877103
_SETTINGS = {b"user", b"database", b"client_encoding", b"application_name", b"timezone"}
_Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pooler:
    """Listens on a port of its own; `dsn` leads there. Lets nobody in who asks for more than these settings, as PgBouncer
    does."""

    def __init__(self, dsn: str, *, by_transaction: bool) -> None:
        self._dsn = urlsplit(dsn)
        self._socket = parse_qs(self._dsn.query)["host"][0] + "/.s.PGSQL.5432"
        self._by_transaction = by_transaction
        self._free: list[_Pair] = []
        self._greeting = b""
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self.dsn = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{self._dsn.username}@127.0.0.1:{port}{self._dsn.path}"

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            startup = await _startup(reader, writer)
            if set(startup[8:].rstrip(b"\0").split(b"\0")[::2]) - _SETTINGS:
                writer.write(_message(b"E", b"SFATAL\0C08P01\0Munsupported startup parameter\0\0"))
                writer.close()
                return
            server = self._free.pop() if self._free and self._by_transaction else await self._open(startup)
            # Its own number for this client, as a pooler gives one: it may cancel, and stands for no process.
            writer.write(self._greeting + _message(b"K", struct.pack(">II", 2_000_000_000, 1)) + _message(b"Z", b"I"))
            await self._relay(startup, server, reader, writer)

    async def _open(self, startup: bytes) -> _Pair:
        """A session of the server's, up to where it is ready."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        self._writers.add(writer)
        writer.write(startup)
        greeting = b""
        while (message := await _read(reader))[:1] != b"Z":
            greeting += message if message[:1] != b"K" else b""
        self._greeting = greeting
        return reader, writer

    async def _relay(
        self, startup: bytes, server: _Pair | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Requests up to a Sync or a Query, then answers up to where the server is ready; and so on."""
        while True:
            request = await _read(reader)
            if server is None:
                server = self._free.pop() if self._free else await self._open(startup)
            server[1].write(request)
            if request[:1] == b"H":  # Flush: some of the answers, of which the last describes
                await server[1].drain()
                while (answer := await _read(server[0]))[:1] not in (b"T", b"n", b"E"):
                    writer.write(answer)
                writer.write(answer)
            elif request[:1] in (b"S", b"Q"):
                while (answer := await _read(server[0]))[:1] != b"Z":
                    writer.write(answer)
                writer.write(answer)
                if self._by_transaction and answer[5:] == b"I":
                    self._free.append(server)
                    server = None


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack(">II", head)
        if code != _SSL_REQUEST:
            return head + await reader.readexactly(length - 8)
        writer.write(b"N")


async def _read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body
