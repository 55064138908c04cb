"""A seat in the fleet: daemons sit in it one after the other, real processes, on the same line to the database."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Protocol

from tests.support.daemon import Process
from tests.support.face import Face

# As the daemons are configured: what is in flight, how long an attempt may take, how often it is tried.
IN_FLIGHT = 64
TIMEOUT = 3.0
MAX_ATTEMPTS = 12
_SETTINGS = {
    "BISD_DELIVERY_MAX_IN_FLIGHT": str(IN_FLIGHT),
    "BISD_DELIVERY_MAX_IN_FLIGHT_PER_WEBHOOK": "16",
    "BISD_DELIVERY_TIMEOUT": f"{TIMEOUT:g}s",
    "BISD_DELIVERY_CONNECT_TIMEOUT": "2s",
    "BISD_RETRY_SCHEDULE": '["200ms", "500ms", "1s"]',
    "BISD_RETRY_JITTER": "0.1",
    "BISD_RETRY_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "BISD_LOG_FORMAT": "json",
}


class Line(Protocol):
    """What leads to the database, or to two of them."""

    @property
    def dsn(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Seat:
    def __init__(self, name: str, directory: Path, line: Line, ca_file: Path) -> None:
        self.name = name
        self._line = line
        self.starts = 0
        self._directory = directory
        self._ca_file = ca_file
        self._socket = directory / f"{name}.http"
        self.daemon: Process

    async def open(self) -> None:
        await self._line.start()
        settings = _SETTINGS | {"BISD_HTTP_LISTEN": f"unix:{self._socket}"}
        self.daemon = Process(self._directory, self._line.dsn, self._ca_file, self.name, **settings)

    async def close(self) -> None:
        """Whatever still runs goes with it."""
        if self.starts:
            await self.daemon.kill()
        await self._line.stop()

    async def launch(self, trap: tuple[str, int, int] | None = None) -> None:
        """A new daemon, one with a trap if so: at a point, at the n-th time, by this seed. Does not wait until it is ready."""
        self.starts += 1
        await self.daemon.launch(sys.executable, "-m", "tests.torture.trap", *map(str, trap or ()))

    async def sit(self) -> None:
        """A new daemon that is ready."""
        await self.launch()
        async with asyncio.timeout(60):
            if not await self.daemon.ready():
                raise AssertionError(f"{self.name} ended before it was ready: {self.daemon.log[-2000:]}")

    @property
    def runs(self) -> bool:
        return self.daemon.runs

    async def samples(self) -> dict[str, float]:
        """What its daemon measures, as /metrics shows it."""
        return await Face(self._socket).samples()
