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
    """The next finds a daemon's session: the same one, if nothing went wrong; another one, if it had been given more time."""
    expected = ["off", "10s", "pg_catalog", "off"]
    async with Sessions(lambda: db.connect(dsn, db.DAEMON), 1) as sessions:
        served = []
        for _ in range(2):
            async with sessions.borrow() as connection:
                served.append(connection.get_server_pid())
                assert expected == await _settings(connection)
        async with sessions.borrow(within=600) as connection:
            served.append(connection.get_server_pid())
            assert ["off", "10min", "pg_catalog", "off"] == await _settings(connection)
        async with sessions.borrow() as connection:
            assert served[0] != connection.get_server_pid()
            assert expected == await _settings(connection)
            served.append(connection.get_server_pid())
        with pytest.raises(ZeroDivisionError):
            async with sessions.borrow() as connection:
                served.append(connection.get_server_pid())
                raise ZeroDivisionError
        async with sessions.borrow() as connection:
            assert served[-1] != connection.get_server_pid()
    assert ([served[0]] * 3, [served[3]] * 2) == (served[:3], served[3:])


async def test_what_is_lent_again_costs_no_statement(dsn: str) -> None:
    """Whoever asks one thing has the server execute one statement, not two more that set up a session and reset it."""
    heard: list[str] = []
    async with Sessions(lambda: db.connect(dsn, db.DAEMON), 1) as sessions:
        async with sessions.borrow() as connection:
            connection.add_query_logger(lambda record: heard.append(record.query))
        for _ in range(2):
            async with sessions.borrow() as connection:
                await connection.fetchval("select 1")
    assert ["select 1"] * 2 == heard


async def test_no_more_than_may_be(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds all of them lent waits for a while, and is then refused."""
    monkeypatch.setattr("bisd.sessions._PATIENCE", 0.2)
    async with Sessions(lambda: db.connect(dsn, db.DAEMON), 1) as sessions, sessions.borrow():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), sessions.borrow():
                pytest.fail("it is lent already")
