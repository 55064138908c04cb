"""Sessions that are lent for a moment: as they were at their beginning, and never more than may be."""

from __future__ import annotations

import asyncio

import pytest

from bisd import db
from bisd.sessions import Sessions


async def _settings(connection: db.Connection) -> list[str]:
    names = ("synchronous_commit", "statement_timeout", "search_path", "enable_seqscan")
    return [await connection.fetchval("select current_setting($1)", name) for name in names]


async def test_a_session_is_lent_as_it_was(dsn: str) -> None:
    """Whatever the one before did to it, the next finds a daemon's session; the same one, if nothing went wrong."""
    expected = ["off", "10s", "pg_catalog", "off"]
    async with Sessions(lambda: db.connect(dsn, daemon=True), 1) as sessions:
        served = []
        for _ in range(2):
            async with sessions.borrow() as connection:
                served.append(connection.get_server_pid())
                assert expected == await _settings(connection)
                await connection.execute(db.query("patience"), "600s")
                assert expected != await _settings(connection)
        with pytest.raises(ZeroDivisionError):
            async with sessions.borrow() as connection:
                served.append(connection.get_server_pid())
                raise ZeroDivisionError
        async with sessions.borrow() as connection:
            assert served[0] != connection.get_server_pid()
    assert [served[0]] * 3 == served


async def test_no_more_than_may_be(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds all of them lent waits for a while, and is then refused."""
    monkeypatch.setattr("bisd.sessions._PATIENCE", 0.2)
    async with Sessions(lambda: db.connect(dsn, daemon=True), 1) as sessions, sessions.borrow():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), sessions.borrow():
                pytest.fail("it is lent already")
