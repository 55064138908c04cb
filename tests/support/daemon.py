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

    async def start(self, *before: str) -> None:
        """Returns when it says READY=1. `before`: a command that starts it, with its options."""
        self._socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notifications:
            notifications.bind(str(self._socket))
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *before, sys.executable, "-m", "bisd", "--config", str(self._config), "run",
                    stdout=log, stderr=log, env=os.environ | {"NOTIFY_SOCKET": str(self._socket)} | self._environment,
                )  # fmt: skip
            async with asyncio.timeout(30):
                while await asyncio.get_running_loop().sock_recv(notifications, 4096) != b"READY=1":
                    pass

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        return await self._end(signal.SIGTERM)

    def suspend(self) -> None:
        """SIGSTOP: it hangs, and its kernel goes on answering for it."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> int:
        return await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(40):
            return await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()
