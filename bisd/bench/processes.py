"""The processes of a run: the daemon as an operator starts it, and helpers of the benchmark's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from bisd.bench.reader import TOKEN
from bisd.errors import BenchFailedError

_READY_WITHIN = 120.0
_STOPPED_WITHIN = 60.0
_PATIENCE = 0.5
_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Daemon:
    """`bisd run`, ready. `spawned`: when its process was started."""

    pid: int
    spawned: float


@dataclass(frozen=True, slots=True)
class _Spawned:
    process: asyncio.subprocess.Process
    notifications: socket.socket
    log: Path
    at: float


@asynccontextmanager
async def daemons(
    directory: Path, dsn: str, ca_file: Path, number: int, settings: Mapping[str, int | str], face: Path | None = None
) -> AsyncIterator[list[Daemon]]:
    """So many daemons that have said READY, stopped in the end. `settings` are those of [delivery]; `face`: the socket at which
    the only one has its pages."""
    configuration = _configuration(dsn, ca_file, settings, face)
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(_spawn(directory, f"bisd{one}", configuration)) for one in range(number)]
        for one in started:
            await _ready(one)
        yield [Daemon(one.process.pid, one.at) for one in started]
        for one in started:
            if one.process.returncode is not None:
                raise BenchFailedError(reason=f"a daemon ended while it was measured: {_tail(one.log)}")
        await _stop([one.process for one in started])


@asynccontextmanager
async def _spawn(directory: Path, name: str, configuration: str) -> AsyncIterator[_Spawned]:
    file, log, address = (directory / f"{name}.{ending}" for ending in ("toml", "log", "sock"))
    file.write_text(configuration, encoding="utf-8")
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notifications, log.open("wb") as output:
        notifications.bind(str(address))
        at = time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bisd", "--config", str(file), "run",
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=_environment() | {"NOTIFY_SOCKET": str(address)},
        )  # fmt: skip
        try:
            yield _Spawned(process, notifications, log, at)
        finally:
            await _end(process, signal.SIGTERM)


@asynccontextmanager
async def helper(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of this package, over pipes; it is gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True, env=_environment(),
        limit=1 << 30,
    )  # fmt: skip
    try:
        yield process
    finally:
        await _end(process, signal.SIGKILL)


async def asked(module: str, question: dict[str, object]) -> Any:
    """What a helper answers, as JSON. Raises BenchFailedError if it does not."""
    async with helper(module, json.dumps(question)) as process:
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise BenchFailedError(reason=f"{module} ended with status {process.returncode}, see above")
        return json.loads(output)


async def answered(process: asyncio.subprocess.Process) -> str:
    """The next line of a helper."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise BenchFailedError(reason="a process of the benchmark ended too early, see above")
    return line.decode()


def told(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """Helpers that wait for it begin."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")


def _configuration(dsn: str, ca_file: Path, settings: Mapping[str, int | str], face: Path | None) -> str:
    http = "[http]\nlisten = 'off'\n"
    if face is not None:
        token = face.with_suffix(".token")
        token.write_text(TOKEN)
        token.chmod(0o600)
        http = f"[http]\nlisten = {json.dumps(f'unix:{face}')}\ntoken_file = {json.dumps(str(token))}\n"
    delivery = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    return (
        f"[database]\ndsn = {json.dumps(dsn)}\n[delivery]\n{delivery}[log]\nlevel = 'warning'\nformat = 'json'\n"
        f"{http}"
        f"[egress]\nallow_http = true\nallow = ['127.0.0.0/8']\nports = ['1-65535']\nca_file = {json.dumps(str(ca_file))}\n"
    )


def _environment() -> dict[str, str]:
    """Ours, without the settings of anybody's deployment: they would win over the benchmark's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BISD_")}


async def _ready(daemon: _Spawned) -> None:
    async def hear() -> None:
        while await asyncio.get_running_loop().sock_recv(daemon.notifications, 4096) != b"READY=1":
            pass

    try:
        async with asyncio.timeout(_READY_WITHIN), asyncio.TaskGroup() as group:
            tasks = {group.create_task(hear()), group.create_task(daemon.process.wait())}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    except TimeoutError:
        raise BenchFailedError(reason=f"the daemon was not ready within {_READY_WITHIN:.0f} s: {_tail(daemon.log)}") from None
    if daemon.process.returncode is not None:
        raise BenchFailedError(reason=f"the daemon did not start: {_tail(daemon.log)}")


async def _stop(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """In order, all at once. Whoever takes long is told again, which cuts short what hangs: all that counts is written."""
    for process in processes:
        process.terminate()
    try:
        async with asyncio.timeout(_PATIENCE):
            for process in processes:
                await process.wait()
    except TimeoutError:
        pass


async def _end(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)
    try:
        async with asyncio.timeout(_STOPPED_WITHIN):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_SHOWN:].strip()
