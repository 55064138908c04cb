"""A listing in pages out of several streams: nothing is lost between them, and a cursor is what it was, or none at all."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisd.errors import CursorInvalidError
from bisd.listing import Cursor, Entry, Place, Stream, merge

START = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = st.one_of(st.none(), st.lists(st.one_of(st.integers(), st.text(max_size=20)), max_size=3).map(tuple))


@given(st.lists(PLACES, max_size=3).map(tuple))
def test_a_cursor_is_read_as_it_was_written(places: tuple[Place | None, ...]) -> None:
    """Whatever the places are, if it is short enough to be one."""
    text = str(Cursor(places))
    if len(text) <= 400:
        assert Cursor(places) == Cursor.parse(text)


@given(st.text(max_size=500))
def test_any_other_text_is_no_cursor(text: str) -> None:
    """It is refused in words, whatever it is."""
    try:
        cursor = Cursor.parse(text)
    except CursorInvalidError as fault:
        assert "leave it out" in str(fault)
    else:
        assert all(place is None or all(type(part) in (int, str) for part in place) for place in cursor.places)


@pytest.mark.parametrize("text", ["", "W10=x", "bnVsbA", "WzEuNV0", "W1t0cnVlXV0", "e30", "W" * 401, "\ud800"])
def test_what_is_none(text: str) -> None:
    """No JSON, no list, other values than texts and whole numbers, and too long a text."""
    with pytest.raises(CursorInvalidError):
        Cursor.parse(text)


def stream(times: list[int], begin: int, most: int, webhook_id: int) -> Stream:
    """From `begin` on, so many of a stream whose entries have these times; its places are numbers."""
    found = [Entry(START + timedelta(seconds=at), n, webhook_id, (n + 1,)) for n, at in enumerate(times)][begin : begin + most]
    return Stream((begin,), deque(found), (begin + most,) if begin + most < len(times) else None)


@given(
    st.lists(st.integers(0, 50), max_size=20).map(lambda times: sorted(times, reverse=True)),
    st.lists(st.integers(0, 50), max_size=20).map(lambda times: sorted(times, reverse=True)),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_each_entry_is_on_one_page(first: list[int], second: list[int], most: int, looked: int) -> None:
    """However many are looked at for a page, and however many it has; within a page the latest come first."""
    places: tuple[Place | None, ...] = ((0,), (0,))
    seen: list[Entry] = []
    while True:
        streams = [
            Stream() if place is None else stream(times, int(place[0]), looked, number)
            for number, (times, place) in enumerate(zip((first, second), places, strict=True))
        ]
        page, following = merge(streams, most)
        assert len(page) <= most
        assert sorted(page, key=lambda entry: entry.at, reverse=True) == page
        seen += page
        if following is None:
            break
        places = following.places
    expected = [(n, 0) for n in range(len(first))] + [(n, 1) for n in range(len(second))]
    assert expected == sorted(((entry.event_id, entry.webhook_id) for entry in seen), key=lambda key: (key[1], key[0]))
