"""What it costs: CPU of the daemons and of PostgreSQL, statements, WAL, dead rows, resident memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from bisd import db
from bisd.bench.cluster import Base, require
from bisd.bench.figures import Figures
from bisd.bench.processes import Daemon

_PATIENCE = 60.0
_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """So far, in seconds, statements and bytes. None is what cannot be told from here."""

    at: float
    cpu: float
    postgres_cpu: float | None
    statements: int | None
    wal: int

    def each(self, since: Usage, number: int) -> Figures:
        """Per delivery, of so many."""
        figures: Figures = {"cpu": (self.cpu - since.cpu) / number * 1e6, "postgres_cpu": None, "statements": None}
        if self.postgres_cpu is not None and since.postgres_cpu is not None:
            figures["postgres_cpu"] = (self.postgres_cpu - since.postgres_cpu) / number * 1e6
        if self.statements is not None and since.statements is not None:
            figures["statements"] = (self.statements - since.statements) / number
        return figures | {"wal": (self.wal - since.wal) / number}

    def share(self, since: Usage) -> Figures:
        """Per second, of a core."""
        seconds = self.at - since.at
        figures: Figures = {"cpu_share": (self.cpu - since.cpu) / seconds * 100, "postgres_share": None, "statement_rate": None}
        if self.postgres_cpu is not None and since.postgres_cpu is not None:
            figures["postgres_share"] = (self.postgres_cpu - since.postgres_cpu) / seconds * 100
        if self.statements is not None and since.statements is not None:
            figures["statement_rate"] = (self.statements - since.statements) / seconds
        return figures


async def usage(base: Base, daemons: Sequence[Daemon]) -> Usage:
    cpu = sum(_cpu(daemon.pid) for daemon in daemons)
    at = time()
    wal = await base.connection.fetchval(db.query("bench_wal"))
    statements = await base.connection.fetchval(db.query("bench_statements")) if base.counted else None
    return Usage(at, cpu, await _postgres_cpu(base), statements, wal)


async def dead_rows(base: Base) -> int:
    """So far. A session tells of all of its own when it ends, so this waits for the others to have ended."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while await base.connection.fetchval(db.query("bench_others")):
                await asyncio.sleep(_POLL)
    except TimeoutError:
        require(False, "the sessions of a daemon that has ended have not")
    return int(await base.connection.fetchval(db.query("bench_dead")))


def resident(daemons: Sequence[Daemon]) -> float:
    """The most that each of them has ever held, in MB (10**6 bytes), together."""
    return sum(_peak(daemon.pid) for daemon in daemons) / 1e6


def _peak(pid: int) -> int:
    import psutil

    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1]) * 1024 if match is not None else int(psutil.Process(pid).memory_info().rss)


def resident_now(daemon: Daemon) -> float:
    import psutil

    return int(psutil.Process(daemon.pid).memory_info().rss) / 1e6


def _cpu(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _postgres_cpu(base: Base) -> float | None:
    """Of the whole server: the postmaster, its children, and those that have ended, which it has reaped. None where the
    server's processes are not ours to see."""
    import psutil

    row = await base.connection.fetchrow(db.query("bench_backend"))
    assert row is not None
    try:
        postmaster = psutil.Process(row["pid"]).parent() if row["local"] else None
        if postmaster is None or "postgres" not in postmaster.name():
            return None
        times = postmaster.cpu_times()
        total = float(times.user + times.system + times.children_user + times.children_system)
        for child in postmaster.children():
            try:
                total += _cpu(child.pid)
            except psutil.NoSuchProcess:
                continue  # it has ended just now; the postmaster has its times the next time it is asked
        return total
    except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
        return None
