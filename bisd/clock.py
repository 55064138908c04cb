"""The database's clock, kept between two looks: due times are the database's, and the host's wall clock may jump."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from time import CLOCK_BOOTTIME, clock_gettime

# Seconds that go on while the host is suspended, as the database's do.
ticks: Callable[[], float] = partial(clock_gettime, CLOCK_BOOTTIME)


class Clock:
    """Tells the database's time (aware, UTC) by the time that has passed since it was last heard."""

    def __init__(self, ticks: Callable[[], float] = ticks) -> None:
        self._ticks = ticks
        self._heard_at = self._asked_at = ticks()
        self._heard = datetime.now(UTC)

    def hear(self, database_now: datetime, asked_at: float) -> None:
        """The database says it is `database_now`, to a question that was asked at `asked_at` (as `ticks` tells it). What it
        said is a moment old, so we are never ahead of it."""
        self._heard = database_now
        self._heard_at = self._ticks()
        self._asked_at = asked_at

    def answered(self, asked_at: float) -> None:
        """The database has answered a question that was asked then, whatever it was about."""
        self._asked_at = asked_at

    def now(self) -> datetime:
        return self._heard + timedelta(seconds=self._ticks() - self._heard_at)

    def silence(self) -> float:
        """Seconds since we asked what the database has answered last, however late that answer was heard."""
        return self._ticks() - self._asked_at
