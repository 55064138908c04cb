"""The proxy that is a company's only way out: it is asked by CONNECT, and passes on octets that it cannot read."""

from __future__ import annotations

import asyncio
import socket


class Proxy:
    """Whatever it is asked for it connects to the Unix socket at `to`, unless `refusal` is set: then it answers that status.
    `asked`: by which host and port."""

    def __init__(self, to: str) -> None:
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self.refusal: int | None = None
        self._to = to
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._serve, sock=listener)

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("ascii").split(" ", 2)
            assert method == "CONNECT"
            self.asked.append(target)
            self.heads.append(head)
            if self.refusal is not None:
                writer.write(f"HTTP/1.1 {self.refusal} No\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                return
            theirs, ours = await asyncio.open_unix_connection(self._to)
            self._writers.add(ours)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pass(reader, ours), _pass(theirs, writer))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while octets := await source.read(1 << 14):
            sink.write(octets)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()
