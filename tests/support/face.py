"""The HTTP face of a daemon, asked as any program asks: octets out, octets in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bisd.address import Address
from bisd.config import Config, HttpConfig
from bisd.service import Service

# Nobody's: the port is reserved, and nothing listens there.
NOWHERE = "postgresql://bisd@127.0.0.1:1/shop"
LOOPBACK = Address(IPv4Address("127.0.0.1"), 0)


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Face:
    """Where it listens."""

    def __init__(self, at: Address | Path) -> None:
        self.at = at

    @property
    def port(self) -> int:
        assert isinstance(self.at, Address)
        return self.at.port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.at, Path):
            return await asyncio.open_unix_connection(self.at)
        return await asyncio.open_connection(str(self.at.host), self.at.port)

    async def ask(self, octets: bytes) -> Reply:
        """What is answered to these octets; ValueError if nothing is."""
        async with asyncio.timeout(20):
            reader, writer = await self.connect()
            try:
                writer.write(octets)
                return await read(reader, octets.startswith(b"HEAD "))
            finally:
                writer.close()

    async def get(self, path: str, *headers: str, method: str = "GET") -> Reply:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close"]
        return await self.ask("".join(f"{line}\r\n" for line in [*lines, ""]).encode())

    async def samples(self) -> dict[str, float]:
        """What /metrics shows: a number for each name with its labels."""
        text = (await self.get("/metrics")).body.decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


async def read(reader: asyncio.StreamReader, head_only: bool = False) -> Reply:
    """One answer. Raises ValueError where the connection ends without one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        raise ValueError("closed without an answer") from None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b"" if head_only else await reader.readexactly(int(headers.get("Content-Length", "0")))
    return Reply(int(first.split()[1]), headers, body)


@asynccontextmanager
async def facing(
    dsn: str = NOWHERE, config: Config | None = None, *, within: float = 60, **http: Any
) -> AsyncIterator[tuple[Service, Face]]:
    """A daemon whose HTTP face answers, whether it is ready or not; on a free port, unless `listen` names another place. All
    that is done with it is done `within` seconds."""
    config = config or Config()
    service = Service(replace(config, http=HttpConfig(**{"listen": LOOPBACK} | http)), dsn)
    async with asyncio.timeout(within), asyncio.TaskGroup() as group:
        running = group.create_task(service.run())
        try:
            while service.listens_at is None and not running.done():
                await asyncio.sleep(0)
            if service.listens_at is not None:
                yield service, Face(service.listens_at)
        finally:
            service.stop()
