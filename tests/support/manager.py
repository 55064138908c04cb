"""systemd, as far as the daemon can tell: a socket that hears what it says of itself, and when; and what it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.support.shop import eventually


class Said(NamedTuple):
    """One datagram: when it came, and its lines by name."""

    at: float
    states: dict[str, str]


class Manager:
    """Listens in a thread of its own: what a loop that is blocked says, or does not, is heard all the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[Said] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while datagram := self._socket.recv(65536):
            states = dict(line.split("=", 1) for line in datagram.decode().splitlines())
            self.said.append(Said(monotonic(), states))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def named(self, name: str) -> list[Said]:
        """What was said under this name."""
        return [said for said in self.said if name in said.states]

    def order(self) -> list[str]:
        """Everything but the status, each once in a row."""
        names = [next(iter(said.states)) for said in self.said]
        names = [name for name in names if name != "STATUS"]
        return [name for before, name in zip(["", *names], names, strict=False) if name != before]

    async def hears(self, name: str, number: int = 1, text: str = "") -> Said:
        """Waits until it was said so many times, with that text in it; the last of them."""

        async def heard() -> bool:
            return len(self._with(name, text)) >= number

        await eventually(heard, 30)
        return self._with(name, text)[number - 1]

    def _with(self, name: str, text: str) -> list[Said]:
        return [said for said in self.named(name) if text in said.states[name]]


@contextmanager
def manager(directory: Path) -> Iterator[Manager]:
    listening = Manager(directory / "notify")
    try:
        yield listening
    finally:
        listening.close()


class Unit:
    """`bisd run`, as the manager starts it. Ended at the latest when its test is, however that ends."""

    def __init__(self, listening: Manager, config: Path, log: Path | None = None, **environment: str) -> None:
        self._environment = os.environ | {"NOTIFY_SOCKET": str(listening.path)} | environment
        self._config = config
        self._log = log or config.with_suffix(".log")
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Unit:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bisd", "--config", str(self._config), "run",
                stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(40):
            return await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()
