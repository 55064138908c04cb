"""A receiver that takes requests as the octets they are."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable


class Wire:
    """Answers 200, or what `answer` holds. `heads`: the octets of each request, up to its body."""

    OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.answer = self.OK
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self, listeners: Iterable[socket.socket], tls: ssl.SSLContext | None) -> None:
        """On sockets that are bound already."""
        self._servers += [await asyncio.start_server(self._serve, sock=listener, ssl=tls) for listener in listeners]

    async def listen_at(self, path: str, tls: ssl.SSLContext) -> None:
        """On a Unix socket."""
        self._servers.append(await asyncio.start_unix_server(self._serve, path, ssl=tls))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.close()
        for server in self._servers:
            await server.wait_closed()

    @property
    def targets(self) -> list[str]:
        return [head.split(b" ", 2)[1].decode("ascii") for head in self.heads]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *([0-9]+)\r\n", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                self.heads.append(head)
                writer.write(self.answer)
                await writer.drain()
                if b"Connection: close" in self.answer:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
