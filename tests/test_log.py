"""Logs tell what happened, never what it was about."""

from __future__ import annotations

import pytest

from bisd import log

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
