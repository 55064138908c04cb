"""bisd's daemon for a test: in this process, or as the real process that an operator runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

from bisd.config import Config, HttpConfig
from bisd.service import Service

SCHEDULE = [timedelta(milliseconds=300), timedelta(milliseconds=600)]


def configure(ca_file: Path, **delivery: object) -> Config:
    """A deployment that may reach the loopback address, and retries within a second, three times in all. It listens on no
    port: tests may run at the same time."""
    default = Config()
    return replace(
        default,
        delivery=replace(default.delivery, **delivery),
        retry=replace(default.retry, schedule=SCHEDULE, jitter=0.0, max_attempts=3),
        http=HttpConfig(listen=None),
        egress=replace(default.egress, allow=[ip_network("127.0.0.0/8")], ports=[(1, 65535)], ca_file=ca_file),
    )


@asynccontextmanager
async def running(config: Config, dsn: str, reread: Callable[[], Config] | None = None) -> AsyncIterator[Service]:
    """A daemon that is ready; at the end it is stopped in order, so that everything is written."""
    service = Service(config, dsn, reread)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(service.run())
        try:
            await service.ready.wait()
            yield service
        finally:
            service.stop()


class Process:
    """`bisd run`, started as systemd does it: READY comes over the notify socket."""

    def __init__(self, directory: Path, dsn: str, ca_file: Path, name: str = "bisd", **environment: str) -> None:
        self._environment = environment
        self._config = directory / f"{name}.toml"
        self._socket = directory / f"{name}.sock"
        self._log = directory / f"{name}.log"
        self._config.write_text(
            f"""
            [database]
            dsn = "{dsn}"
            [retry]
            schedule = ["300ms", "600ms"]
            jitter = 0
            max_attempts = 5
            [egress]
            allow = ["127.0.0.0/8"]
            ports = ["1-65535"]
            ca_file = "{ca_file}"
            [http]
            listen = "off"
            """
        )
        self._process: asyncio.subprocess.Process
        self._notifications: socket.socket

    async def start(self, *before: str) -> None:
        """Returns when it says READY=1. `before`: a command that starts it, with its options."""
        await self.launch(*before, sys.executable, "-m", "bisd")
        async with asyncio.timeout(30):
            assert await self.ready(), self.log

    @asynccontextmanager
    async def in_order(self) -> AsyncIterator[Process]:
        """Runs, and at the end stops when it is told to, without a fault of its own in the log."""
        await self.start()
        yield self
        try:
            assert 0 == await self.stop()
        finally:
            await self.kill()
            assert "internal_fault" not in self.log

    async def launch(self, *program: str) -> None:
        """Starts it, by the command that is bisd, and does not wait for it."""
        self._socket.unlink(missing_ok=True)
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notifications.bind(str(self._socket))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *program, "--config", str(self._config), "run",
                stdout=log, stderr=log, env=os.environ | {"NOTIFY_SOCKET": str(self._socket)} | self._environment,
            )  # fmt: skip

    async def ready(self) -> bool:
        """Waits until it says READY=1; False if it ended before."""
        ended = asyncio.ensure_future(self._process.wait())
        try:
            with self._notifications:
                while True:
                    said = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(self._notifications, 4096))
                    await asyncio.wait({said, ended}, return_when=asyncio.FIRST_COMPLETED)
                    if not said.done():
                        said.cancel()
                        await asyncio.wait({said})
                        return False
                    if said.result() == b"READY=1":
                        return True
        finally:
            ended.cancel()

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        return await self._end(signal.SIGTERM)

    def suspend(self) -> None:
        """SIGSTOP: it hangs, and its kernel goes on answering for it."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    async def kill(self) -> int:
        return await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        self.send(number)
        async with asyncio.timeout(40):
            return await self.ended()

    def send(self, number: signal.Signals) -> None:
        """Unless it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Waits for its end; its exit status."""
        status = await self._process.wait()
        self._notifications.close()
        return status

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()
