"""bisd bench, end to end at a tiny scale: what it says is there and hangs together; how fast anything is, is not asked here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import psutil
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bisd import db
from bisd.bench.cluster import Base
from bisd.bench.figures import UNITS, Figures, Point, Row, medians, percentile
from bisd.bench.plot import plot
from bisd.bench.processes import answered, helper
from bisd.bench.receivers import Stamp, Taken
from bisd.bench.registry import SCENARIOS
from bisd.bench.rig import until_drained
from bisd.bench.session import require
from bisd.errors import BenchFailedError, BenchMissingError
from tests.support.cli import Run
from tests.support.postgres import Server

TINY = ("--rounds", "1", "--scale", "0.001", "--json")
Cases = dict[str, dict[str, Any]]


def drain(cases: Cases) -> bool:
    # Costs are counted from when the daemon is ready, a processor's time in ticks of 10 ms: a case of a few deliveries may have
    # none that are left by then.
    measured = all(one["postgres_cpu"] is not None for one in cases.values())
    measured &= all(sum(one[cost] for one in cases.values()) > 0 for cost in ("cpu", "wal"))
    return (
        len(cases) == 6
        and measured
        and all(one["ratio"] * one["bare"] == pytest.approx(one["deliveries"]) for one in cases.values())
    )


def latency(cases: Cases) -> bool:
    ordered = all(one["p50"] <= one["p95"] <= one["p99"] <= one["max"] for one in cases.values())
    return ordered and list(cases) == ["50/s", "200/s", "1,000/s"] and all(one["repeats"] == 0 for one in cases.values())


def insert(cases: Cases) -> bool:
    bare, ringing = cases["8 writers, bare table"], cases["8 writers, triggers, and a daemon looking"]
    return len(cases) == 8 and bare["to_bare"] == 1 and ringing["wal"] > bare["wal"] and ringing["cpu"] is not None


def hostile(cases: Cases) -> bool:
    return cases["45 of 50 hang"]["in_flight"] > 8 and cases["without"]["ratio"] == 1


def beside(cases: Cases) -> bool:
    without, other = cases.values()
    return bool(other["ratio"] * without["deliveries"] == pytest.approx(other["deliveries"]))


def slow(cases: Cases) -> bool:
    return cases["1000 ms"]["in_flight"] > 64 and all(one["repeats"] == 0 for one in cases.values())


def cold(cases: Cases) -> bool:
    return cases["a TLS connection each"]["cpu"] > 0


def fleet(cases: Cases) -> bool:
    one, four = cases["bound by 100 ms, 1 daemon"], cases["bound by 100 ms, 4 daemons"]
    return four["to_one"] > 1 and four["resident"] > one["resident"] and all(case["repeats"] == 0 for case in cases.values())


def idle(cases: Cases) -> bool:
    return all(10 < one["resident"] < 1000 for one in cases.values())


def pages(cases: Cases) -> bool:
    without, read = cases["nobody looks"], cases["pages are read"]
    shown = 0 < read["page_p50"] <= read["page_max"] and without["page_p50"] is None
    return shown and read["p99_ratio"] * without["p99"] == pytest.approx(read["p99"])


def soak(cases: Cases) -> bool:
    return cases["all of it"]["p99"] <= max(one["max"] for one in cases.values())


CHECKS: dict[str, Callable[[Cases], bool]] = {
    "drain": drain, "latency": latency, "insert": insert, "hostile": hostile, "dead": beside, "history": beside,
    "pinned": beside, "slow": slow, "cold": cold, "fleet": fleet, "idle": idle, "soak": soak, "pages": pages,
}  # fmt: skip


async def databases(dsn: str) -> list[str]:
    """Those of a benchmark."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("select datname from pg_database where datname like 'bisd\\_bench\\_%'")
    await connection.close()
    return [row["datname"] for row in rows]


def left(process: psutil.Popen, number: signal.Signals) -> list[psutil.Process]:
    """The processes that a benchmark has started and that live on after a signal has ended it."""
    children = process.children(recursive=True)
    process.send_signal(number)
    process.wait(30)
    return list(psutil.wait_procs(children, timeout=5)[1])


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_on_a_server_that_is_given(name: str, bisd: Run, dsn: str) -> None:
    """Each scenario gives figures with units, on databases of its own, which are gone afterwards; what this server cannot count
    is left empty, and said."""
    ran = bisd("bench", "--scenario", name, *TINY)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    rows = [row for row in told["rows"] if row["scenario"] == name]
    figures = {row["case"]: {key: figure["value"] for key, figure in row["figures"].items()} for row in rows}
    assert CHECKS[name](figures), json.dumps(figures)
    units = {(key, figure["unit"]) for row in rows for key, figure in row["figures"].items()}
    assert set() == units - set(UNITS.items())
    assert {None} == {one.get("statements") for one in figures.values()}
    assert "statements are not counted" in ran.stderr
    assert [] == await databases(dsn)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that another user can reach: if we are root, the embedded server runs as one."""
    with tempfile.TemporaryDirectory(prefix="bisd-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def test_without_a_configuration(everybodys: Path) -> None:
    """On an embedded PostgreSQL, and a receiver of its own where there is no nginx: a table, with statements counted, and a
    picture; and nothing of it is left behind."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BISD_")}
    picture = everybodys / "bench.svg"
    alone = {"PATH": str(everybodys), "TMPDIR": str(everybodys)}
    ran = subprocess.run(
        [sys.executable, "-m", "bisd", "bench", "--scenario", "cold", "--rounds", "1", "--scale", "0.01",
         "--plot", str(picture)],
        capture_output=True, text=True, timeout=60, env=environment | alone,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    head, *_, row = [line for line in ran.stdout.splitlines() if line.strip()]
    assert "statements each" in head
    assert "a TLS connection each" in row
    assert "receiver own receiver" in ran.stderr
    assert "not counted" not in ran.stderr
    assert picture.read_bytes().startswith(b"<?xml")
    assert [] == [path.name for path in everybodys.iterdir() if path.name.startswith("bisd-bench-")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_was_started_ends_with_it(number: signal.Signals, bisd: Run, dsn: str, tmp_path: Path) -> None:
    """Told to stop in the middle, it stops every process that it has started, and drops its databases."""
    file = tmp_path / "shop.toml"
    command = [sys.executable, "-m", "bisd", "--config", str(file), "bench", "--scenario", "soak"]
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = monotonic() + 30
        while not any("bisd.bench.shop" in child.cmdline() for child in process.children()) and monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert len(process.children()) >= 3  # daemon, receiver, shop
        assert [] == left(process, number)
        assert process.returncode == 128 + number
    assert [] == await databases(dsn)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scenario", "drian"], "there is no scenario 'drian'; did you mean drain?"),
        (["--scenario", "xyzzy"], "there are drain, latency"),
        (["--plot", "bench.gif"], "the file ends in .png or .svg"),
        (["--plot", "/nowhere/bench.png"], "there is no directory /nowhere"),
        (["--scale", "0"], "is not in the range"),
    ],
)
def test_wrong_use(bisd: Run, arguments: list[str], sentence: str) -> None:
    """Refused before anything is started, in a sentence that helps."""
    ran = bisd("bench", *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert sentence in " ".join(ran.stderr.split())


def test_the_list(bisd: Run) -> None:
    """Every scenario, how long it takes, and how it measures."""
    listed = json.loads(bisd("bench", "--list", "--json").stdout)
    assert list(SCENARIOS) == [row["scenario"] for row in listed]
    assert all(row["minutes"] > 0 and len(row["what"]) > 40 for row in listed)


async def test_a_role_that_may_not_make_databases(server: Server, tmp_path: Path) -> None:
    """It is told what it needs; nobody's tables serve instead."""
    connection = await asyncpg.connect(server.dsn("postgres"))
    await connection.execute("create role bench_nobody login")
    try:
        file = tmp_path / "nobody.toml"
        file.write_text(f'[database]\ndsn = "{server.dsn("postgres").replace("postgres:@", "bench_nobody:@")}"\n')
        ran = Run(file)("bench", "--scenario", "cold", *TINY)
    finally:
        await connection.execute("drop role bench_nobody")
        await connection.close()
    assert ran.returncode == 1
    assert "permission denied to create database" in ran.stderr
    assert "alter role" in ran.stderr


async def test_what_was_not_delivered_is_no_figure(dsn: str) -> None:
    """A run that did not deliver what it counts ends with a sentence, not with a figure."""
    connection = await db.connect(dsn)
    with pytest.raises(BenchFailedError, match="7 were owed, 0 were delivered"):
        await until_drained(Base(dsn, connection, False), datetime.now(UTC), 7, 1)
    await connection.close()


def test_a_missing_package() -> None:
    """The command that installs it is named."""
    with pytest.raises(BenchMissingError, match=r"\(no_such_package\): pip install 'bisd\[bench\]'"):
        require("psutil", "no_such_package")


async def test_the_receiver_of_our_own(tmp_path: Path) -> None:
    """Requests that come whole, and in pieces: each answered once, and stamped with its path, id and notification."""
    file = tmp_path / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
    body = b'{"notification_id":17,"topic":"a"}'
    request = b"POST /now/3 HTTP/1.1\r\nwebhook-id: evt_9\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with helper("bisd.bench.receiver", str(file)) as process:
        reader, writer = await asyncio.open_connection("127.0.0.1", json.loads(await answered(process))["http"])
        for pieces in ([request], [request[:20], request[20:90], request[90:]]):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /taken HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        taken = json.loads(await reader.readuntil(b"}"))
        writer.close()
        await writer.wait_closed()
    assert [["/now/3", "evt_9", 17]] * 2 == [stamp[:3] for stamp in taken["stamps"]]


def test_repeats() -> None:
    """The same event at the same webhook is a repeat; at another it is not."""
    stamps = [Stamp("/now/1", "evt_1", 1, 0.0), Stamp("/now/2", "evt_1", 1, 0.0), Stamp("/now/1", "evt_1", 1, 1.0)]
    assert 1 == Taken(2, stamps).repeats


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_plot(ending: str, begins: bytes, tmp_path: Path) -> None:
    """A picture of latency over time and of throughput, as the file's ending says."""
    file = tmp_path / f"bench.{ending}"
    figures: Figures = {"deliveries": 9000.0, "sustained": None}
    plot([Row("drain", "http", figures), Row("latency", "200/s", {"p50": 1.0}, [Point(0, 1.0, 2.0), Point(1, 1.5, 3.0)])], file)
    assert file.read_bytes().startswith(begins)


@given(st.lists(st.floats(0, 1e9), min_size=1), st.integers(1, 100))
def test_percentile(values: list[float], percent: int) -> None:
    """The least of the values that so many percent of them, or more, do not exceed."""
    naive = min(one for one in values if 100 * sum(other <= one for other in values) >= percent * len(values))
    assert naive == percentile(sorted(values), percent)


def test_medians() -> None:
    """Figure by figure; what a round could not measure is not made up from the others."""
    assert {"a": 2.0, "b": None} == medians([{"a": 1.0, "b": 1.0}, {"a": 9.0, "b": None}, {"a": 2.0, "b": 1.0}])
