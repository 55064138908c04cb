"""Logs tell what happened, never what it was about."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bisd import log
from tests.support.daemon import Process
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

ROOT = Path(__file__).parent.parent
SEEDED = "bis_hunter2"


def _fail(key: str) -> None:
    body = f"signed with {key}"
    raise ValueError(body)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_fault_is_told_without_what_it_was_about(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its type and its place; no local variable and no text of an error."""
    log.configure("info", form)
    try:
        _fail(SEEDED)
    except ValueError as fault:
        log.get().error(log.Event.INTERNAL_FAULT, error=type(fault).__name__, where=log.place(fault))
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert "test_log.py:" in written
    assert SEEDED not in written


def test_tracebacks_show_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever logs one: a key that a function holds does not reach the terminal."""
    log.configure("info", "console")
    key = SEEDED + str(len(SEEDED))
    try:
        raise ValueError("of ours")
    except ValueError:
        log.get().exception(log.Event.INTERNAL_FAULT, length=len(key))
    written = capsys.readouterr().err
    assert "of ours" in written
    assert key not in written


async def test_a_storm_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Of each event fifty lines a second are written, and what was kept back is told when the second is over: no line is
    missing in the sum. Other events are not held up by it."""
    log.configure("info", "json")
    for number in range(500):
        log.get().info(log.Event.ATTEMPT_FAILED, event_id=number)
    log.get().info(log.Event.READY)
    written: list[dict[str, object]] = []

    async def told() -> bool:
        written.extend(json.loads(line) for line in capsys.readouterr().err.splitlines())
        return any(line["event"] == "suppressed" for line in written)

    await eventually(told)
    failed = [line for line in written if line["event"] == "attempt_failed"]
    (suppressed,) = [line for line in written if line["event"] == "suppressed"]
    assert (list(range(50)), 1) == ([line["event_id"] for line in failed], sum(line["event"] == "ready" for line in written))
    assert ("attempt_failed", 450, "info") == tuple(suppressed[name] for name in ("of", "count", "level"))


def test_a_storm_is_summed_up_without_a_loop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next line of that event, at the latest."""
    now = 100.0
    monkeypatch.setattr(log, "monotonic", lambda: now)
    log.configure("info", "json")
    for _ in range(53):
        log.get().info(log.Event.READY)
    now += 1.0
    log.get().info(log.Event.READY)
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ["ready"] * 50 + ["suppressed", "ready"] == [line["event"] for line in written]
    assert 3 == written[50]["count"]


_EVERY_LEVEL = """
from bisd import log
log.configure("debug", "{form}")
for level in ("debug", "info", "warning", "error"):
    getattr(log.get(), level)(log.Event.READY)
try:
    1 / 0
except ZeroDivisionError:
    log.get().exception(log.Event.READY)
"""


@pytest.mark.parametrize("form", ["auto", "console"])
@pytest.mark.parametrize("ours", [True, False])
def test_journald_is_told_how_bad_it_is(ours: bool, form: str) -> None:
    """Where standard error leads to the journal every line begins with its priority, as sd-daemon(3) has it; where it leads
    elsewhere, though something else of this service leads there, none does."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as lines, os.fdopen(writing, "w") as pipe:
        status = os.fstat(pipe.fileno())
        stream = f"{status.st_dev}:{status.st_ino + (0 if ours else 1)}"
        subprocess.run(
            [sys.executable, "-c", _EVERY_LEVEL.format(form=form)],
            stderr=pipe,
            env=os.environ | {"JOURNAL_STREAM": stream},
            check=True,
        )
        pipe.close()
        written = lines.read().splitlines()
    expected = ["<7>", "<6>", "<4>", "<3>"] + ["<3>"] * (len(written) - 4)
    assert (expected if ours else []) == [match[0] for line in written if (match := re.match(r"<[0-7]>", line))]


@pytest.mark.parametrize("lost", ["2>/dev/full", "2> >(true)"], ids=["a full disk", "a pipe that nobody reads"])
async def test_deliveries_go_on_without_a_log(
    lost: str, shop: Shop, receiver: Receiver, ca_file: Path, tmp_path: Path, dsn: str
) -> None:
    """Wherever standard error has gone: what fails, and would be told, is retried and taken; it ends in order."""
    await shop.subscribe("notification/create", receiver.url)
    receiver.statuses = [500] * 4
    daemon = Process(tmp_path, dsn, ca_file)
    await daemon.start("bash", "-c", f'exec "$@" {lost}', "bash")
    try:
        await shop.notify(4)
        await receiver.received(8)
        await eventually(lambda: _nothing_owed(shop))
        assert 0 == await daemon.stop()
    finally:
        await daemon.kill()


async def _nothing_owed(shop: Shop) -> bool:
    return await shop.owed() == 0


def test_what_libraries_log_is_not_quoted() -> None:
    """A warning of a library's is told by its logger and place: its text may quote a URL or a key."""
    program = f"""
import logging
from bisd import log
log.configure("info", "json")
logging.getLogger("aiohttp.client").warning("retrying %s", "https://example.com/{SEEDED}")
logging.getLogger("aiohttp.client").info("nothing")
"""
    written = subprocess.run([sys.executable, "-"], input=program, stderr=subprocess.PIPE, text=True, check=True).stderr
    (line,) = map(json.loads, written.splitlines())
    assert ("library", "aiohttp.client", "<stdin>:5") == (line["event"], line["name"], line["where"])


def test_fields_are_those_that_are_documented() -> None:
    """Every line has the fields that stand beside its event in log.py, and no other; and each of them is somewhere used."""
    text = (ROOT / "bisd/log.py").read_text()
    documented = {
        name: set(filter(None, fields.split(", ")))
        for name, fields in re.findall(r'^    ([A-Z_]+) = "[a-z_]+"(?:  # (.*))?$', text, re.MULTILINE)
    }
    used: dict[str, set[str]] = {name: set() for name in documented}
    for path in (ROOT / "bisd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and (name := _event(node.args[0])) is not None:
                used[name] |= {str(keyword.arg) for keyword in node.keywords}
    # Told by a loop over both of them.
    used["SHARDS_TAKEN"] = used["SHARDS_RELEASED"] = {"count", "held", "members"}
    assert set(log.Event.__members__) == set(documented)
    assert documented == used


def _event(node: ast.expr) -> str | None:
    match node:
        case ast.Attribute(value=ast.Attribute(attr="Event") | ast.Name(id="Event"), attr=name):
            return name
        case _:
            return None
