"""A name server of the tests' own, on a UDP port: answers, is silent, or fails, by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

_NO_SUCH_NAME, _FAILED = 3, 2


class Names(asyncio.DatagramProtocol):
    """`addresses`: of a name. Names in none of these do not exist; `down`: nothing is answered at all."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.silent: set[str] = set()
        self.failing: set[str] = set()
        self.down = False
        self.asked: list[str] = []
        self.port = 0
        self._closed = asyncio.Event()
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's does not say so
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        name, question = ".".join(labels).lower(), data[12 : at + 5]
        self.asked.append(name)
        if self.down or name in self.silent:
            return
        address = self.addresses.get(name)
        code = _FAILED if name in self.failing else 0 if address is not None else _NO_SUCH_NAME
        is_a = question[-4:-2] == b"\0\x01"
        answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04" + bytes(map(int, address.split("."))) if address and is_a else b""
        head = data[:2] + bytes([0x81, 0x80 | code]) + b"\0\x01" + (b"\0\x01" if answer else b"\0\0") + b"\0\0\0\0"
        self._transport.sendto(head + question + answer, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    async def close(self) -> None:
        self._transport.close()
        await self._closed.wait()


@asynccontextmanager
async def names() -> AsyncIterator[Names]:
    server = Names()
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        await server.close()
