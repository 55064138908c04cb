"""Pace: how fast one lane may go. Pure; times are the database's and are passed in."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil

_FIRST_LIMIT = 8
# After a success the lane that was parked begins with so many per second, and twice as many every second after it, up to some
# 5,000; then it goes as fast as it may.
_RAMP_FROM = 10.0
_RAMP_FOR = 9.0
# A timer that is late by so much is made up for; a lane that had nothing to send has saved nothing up.
_LATE = timedelta(milliseconds=20)


class Pace:
    """`limit`: how many may be in flight. `not_before`: when the next one may go; None: at once.

    The limit grows by one for every window that was taken and halves with every failure, between 1 and its ceiling.
    """

    __slots__ = ("limit", "not_before", "_ceiling", "_rate", "_ramp_since")

    def __init__(self, ceiling: int, rate: float | None) -> None:
        self.limit: float = min(_FIRST_LIMIT, ceiling)
        self.not_before: datetime | None = None
        self._ceiling = ceiling
        self._rate = rate
        self._ramp_since: datetime | None = None

    def change(self, ceiling: int, rate: float | None) -> None:
        self._ceiling = ceiling
        self.limit = min(self.limit, ceiling)
        if rate != self._rate:
            self.not_before = None
        self._rate = rate

    def taken(self) -> None:
        self.limit = min(self._ceiling, self.limit + 1.0 / self.limit)

    def failed(self) -> None:
        self.limit = max(1.0, self.limit / 2)

    def park(self, probe_at: datetime) -> None:
        """One at a time, and not before then; nor before its rate allows."""
        self.limit = 1.0
        self.not_before = probe_at if self.not_before is None else max(self.not_before, probe_at)
        self._ramp_since = None

    def ramp(self, now: datetime) -> None:
        """It takes what comes again: not all at once."""
        self.limit = 1.0
        self._ramp_since = now
        self.sent(now)

    def stop(self) -> None:
        """Nothing more."""
        self.limit = 0.0

    def sent(self, now: datetime) -> None:
        """One went out: when may the next one?"""
        rate = self._rate
        if self._ramp_since is not None:
            age = max(0.0, (now - self._ramp_since).total_seconds())
            ramp = _RAMP_FROM * 2 ** min(age, _RAMP_FOR)
            if age >= _RAMP_FOR:
                self._ramp_since = None
            elif rate is None or ramp < rate:
                rate = ramp
        if rate is None:
            self.not_before = None
        else:
            self.not_before = max(self.not_before or now, now - _LATE) + timedelta(microseconds=ceil(1e6 / rate))
