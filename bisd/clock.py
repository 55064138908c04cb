"""The database's clock, kept between two looks: due times are the database's, and the host's wall clock may jump."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic


class Clock:
    """Tells the database's time (aware, UTC) by the monotonic time since it was last heard."""

    def __init__(self, ticks: Callable[[], float] = monotonic) -> None:
        self._ticks = ticks
        self._heard_at = ticks()
        self._heard = datetime.now(UTC)

    def hear(self, database_now: datetime) -> None:
        """The database says it is `database_now`. What it said is a moment old, so we are never ahead of it."""
        self._heard = database_now
        self._heard_at = self._ticks()

    def now(self) -> datetime:
        return self._heard + timedelta(seconds=self._ticks() - self._heard_at)
