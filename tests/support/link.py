"""The line between a daemon and its database, which can go silent without an end: every probe is answered, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit


class Link:
    """Passes on what comes to a port of its own to the server's Unix socket, while it is not frozen."""

    def __init__(self, dsn: str) -> None:
        self._dsn = urlsplit(dsn)
        self._socket = parse_qs(self._dsn.query)["host"][0] + "/.s.PGSQL.5432"
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.dsn = ""

    async def start(self) -> None:
        """After a stop, at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{self._dsn.username}@127.0.0.1:{self._port}{self._dsn.path}"

    def freeze(self) -> None:
        """From here on nothing passes, on lines that there are and on new ones; none is closed."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def stop(self) -> None:
        self.thaw()
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._open.wait()
        with suppress(OSError):
            theirs, ours = await asyncio.open_unix_connection(self._socket)
            self._writers.add(ours)
            await asyncio.gather(self._pass(reader, ours), self._pass(theirs, writer))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while octets := await source.read(1 << 16):
                await self._open.wait()
                sink.write(octets)
                await sink.drain()
        await self._open.wait()
        sink.close()
