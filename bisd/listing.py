"""A listing in pages, out of several streams of rows: each has an order of its own by which it goes on, exactly, and all are
merged by the time of their rows, the latest first. A page is short where little fits: it says how far it has looked."""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from bisd.errors import CursorInvalidError

# Where a stream goes on: what its query wants to know, as JSON has it.
Place = tuple[str | int, ...]
Row = dict[str, object]
_MOST_CHARACTERS = 400


class Entry(NamedTuple):
    """A delivery that fits, its time, and the place behind it."""

    at: datetime
    event_id: int
    webhook_id: int
    place: Place


@dataclass
class Stream:
    """What was found of one, from the place `begin` on; `end` is where it goes on behind that, None if there is no more."""

    begin: Place | None = None
    entries: deque[Entry] = field(default_factory=deque)
    end: Place | None = None


@dataclass(frozen=True)
class Cursor:
    """For each stream where it goes on: () at its beginning, None if nothing is left of it."""

    places: tuple[Place | None, ...]

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(self.places, separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises CursorInvalidError. What is in the places is judged by who asks with them."""
        try:
            if len(text) > _MOST_CHARACTERS or not text.isascii():
                raise ValueError
            places = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            if not isinstance(places, list) or not all(map(_is_place, places)):
                raise ValueError
        except (ValueError, binascii.Error, RecursionError):
            raise CursorInvalidError from None
        return cls(tuple(None if place is None else tuple(place) for place in places))


@dataclass(frozen=True)
class Page:
    """Rows, and where to go on; None: that was all. There may be more where there are few rows, or none."""

    rows: list[Row]
    next: Cursor | None


def merge(streams: Iterable[Stream], most: int) -> tuple[list[Entry], Cursor | None]:
    """The latest of them, and where each stream goes on."""
    waiting, taken = list(streams), list[Entry]()
    places = [stream.begin for stream in waiting]
    while len(taken) < most:
        heads = [(stream.entries[0].at, -number) for number, stream in enumerate(waiting) if stream.entries]
        if not heads:
            break
        number = -max(heads)[1]
        entry = waiting[number].entries.popleft()
        places[number] = entry.place
        taken.append(entry)
    for number, stream in enumerate(waiting):
        if not stream.entries:
            places[number] = stream.end
    return taken, Cursor(tuple(places)) if any(place is not None for place in places) else None


def _is_place(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(part, str | int) and not isinstance(part, bool) for part in value)
    )
