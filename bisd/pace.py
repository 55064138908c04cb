"""Pace: how fast one lane may go. Pure; times are the database's and are passed in."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil

_FIRST_LIMIT = 8
# Latency is an average of about so many attempts. It is too long at so many times the least one and so many seconds more; the
# limit shrinks by so much with every attempt that is taken so slowly.
_AVERAGE = 16
_SLOW_TIMES = 2.0
_SLOW_BY = 0.05
_SHRINKS = 0.25
# So many faults of our own in a row, and it is not one receiver that cannot be reached from here.
_OUTAGE_AFTER = 3
_LONGEST_PAUSE = timedelta(seconds=30)
# After a success the lane that was parked begins with so many per second, and twice as many every second after it, up to some
# 5,000; then it goes as fast as it may.
_RAMP_FROM = 10.0
_RAMP_FOR = 9.0
# A timer that is late by so much is made up for; a lane that had nothing to send has saved nothing up.
_LATE = timedelta(milliseconds=20)


class Pace:
    """`limit`: how many may be in flight. `not_before`: when the next one may go; None: at once. `latency`: seconds that an
    attempt takes, on average of late.

    The limit grows by one for every window that was taken and halves with every failure, between 1 and its ceiling. Where more
    in flight only makes all of them wait, it shrinks by a quarter for every window: latency is held against the least average
    that there was. That is found anew with one in flight, so that a receiver that has become slower is taken as it is.
    """

    __slots__ = ("limit", "not_before", "latency", "_least", "_ceiling", "_rate", "_ramp_since")

    def __init__(self, ceiling: int, rate: float | None) -> None:
        self.limit: float = min(_FIRST_LIMIT, ceiling)
        self.not_before: datetime | None = None
        self.latency = 0.0
        self._least = float("inf")
        self._ceiling = ceiling
        self._rate = rate
        self._ramp_since: datetime | None = None

    def change(self, ceiling: int, rate: float | None) -> None:
        self._ceiling = ceiling
        self.limit = min(self.limit, ceiling)
        if rate != self._rate:
            self.not_before = None
        self._rate = rate

    def taken(self, seconds: float) -> None:
        """One was taken, after so many seconds."""
        latency = self.latency = self.latency + (seconds - self.latency) / _AVERAGE if self.latency else seconds
        limit = self.limit
        if latency < self._least or limit <= 1.0:
            self._least = latency
        if latency > _SLOW_TIMES * self._least + _SLOW_BY:
            self.limit = max(1.0, limit - _SHRINKS)
        elif limit < self._ceiling:
            self.limit = min(self._ceiling, limit + 1.0 / limit)

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


class Outage:
    """Whether all lanes are to wait, because the fault is ours: no network, no resolver, no descriptors. After some faults in
    a row it pauses all for a second, then lets one go; twice as long every time that fails too; then begins slowly."""

    def __init__(self) -> None:
        self.quiet = True
        """Nothing is amiss, and has not been of late: there is nothing to ask here."""
        self.number = 0
        """How many there have been."""
        self._pace = Pace(1, None)
        self._faults = 0
        self._pauses = 0
        self._probing = False
        self._until: datetime | None = None
        self._since: datetime | None = None

    def fault(self, now: datetime) -> timedelta | None:
        """An attempt failed by a fault of ours. Answers how long all wait, if a pause begins with that."""
        self.quiet = False
        self._faults += 1
        if self._faults < _OUTAGE_AFTER or (self._until is not None and not self._probing):
            return None
        pause = min(timedelta(seconds=1 << min(self._pauses, 10)), _LONGEST_PAUSE)
        self._pauses += 1
        if self._since is None:
            self._since = now
            self.number += 1
        self._probing = False
        self._until = now + pause
        return pause

    def passed(self, now: datetime) -> timedelta | None:
        """An attempt came to something, whatever the receiver said. Answers how long the outage was that ends with that."""
        if self._until is not None and not self._probing:
            return None  # it was sent before: what is open already may go on working
        self._faults = 0
        if self._until is None or self._since is None:
            self.quiet = self._pace.not_before is None
            return None
        lasted = now - self._since
        self._since = None
        self._until, self._pauses, self._probing = None, 0, False
        self._pace.ramp(now)
        return lasted

    def spare(self) -> None:
        """The probe told nothing: another one may go."""
        self._probing = False

    def permits(self, now: datetime) -> bool:
        """Whether anything may go now."""
        if self._until is not None:
            return now >= self._until and not self._probing
        return self._pace.not_before is None or now >= self._pace.not_before

    def sent(self, now: datetime) -> None:
        if self._until is not None:
            self._probing = True
        elif self._pace.not_before is not None:
            self._pace.sent(now)

    @property
    def lasts(self) -> bool:
        return self._since is not None

    @property
    def resumes_at(self) -> datetime | None:
        """When something may go again; None: at once, or when the probe has come back."""
        return self._pace.not_before if self._until is None else None if self._probing else self._until
