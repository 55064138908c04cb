"""Health: how one webhook is doing, and what follows from failure. Pure; times are the database's and are passed in.

Failures of several different deliveries in a row park it: what it is owed waits unspent, and one probe goes out from time to
time. One delivery that fails again and again parks nothing: it may be that body. And a webhook without a success for long
enough, and often enough, is deactivated, after two warnings.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from bisd.model import WELL, Standing

_PARK_AFTER = 5
_FIRST_PROBE = timedelta(seconds=1)
_LONGEST_PROBE = timedelta(minutes=5)
# A receiver that fails for a moment is not worth a row's update.
_WORTH_TELLING = timedelta(seconds=10)
_WORTH_TELLING_FAILURES = 3
_WARNINGS = (75, 50)


class Limits(NamedTuple):
    """Deactivation: no success for `failing_for`, and at least `min_attempts` failed."""

    failing_for: timedelta
    min_attempts: int


class Report(NamedTuple):
    """What the database is to be told. `deactivate`: 'failing', 'gone' (it answered 410), or None. `last_error`: a status or a
    code, as text."""

    webhook_id: int
    standing: Standing
    deactivates_at: datetime | None
    deactivate: str | None
    last_error: str


class Health:
    """One webhook's, from what the database knows of it."""

    __slots__ = ("failing_since", "over", "_webhook_id", "_limits", "_standing", "_told", "_failed", "_error")

    def __init__(self, webhook_id: int, limits: Limits, standing: Standing) -> None:
        self.failing_since = standing.failing_since
        self.over = False
        self._webhook_id = webhook_id
        self._limits = limits
        self._standing = self._told = standing
        self._failed: set[int] = set()
        self._error = ""

    @property
    def probe_at(self) -> datetime | None:
        """When the next probe may go; None while it is not parked."""
        return self._standing.next_probe_at

    def change(self, limits: Limits) -> None:
        """From the next failure on, it is deactivated by these."""
        self._limits = limits

    def succeed(self) -> Report | None:
        """An attempt was taken."""
        told, self._told, self._standing, self.failing_since = self._told, WELL, WELL, None
        self._failed.clear()
        return None if told == WELL or self.over else Report(self._webhook_id, WELL, None, None, "")

    def fail(self, event_id: int, now: datetime, error: str, *, gone: bool = False, probe: bool = False) -> Report | None:
        """An attempt failed, by the receiver's doing. `gone`: it said that it is gone for good."""
        if self.over:
            return None
        since = self.failing_since = self.failing_since or now
        known = self._standing
        failures = known.failures + 1
        way = min((now - since) / self._limits.failing_for, failures / self._limits.min_attempts)
        warned = max([known.warned, *(percent for percent in _WARNINGS if way * 100 >= percent)])
        self.over = gone or way >= 1
        self._error = error
        self._standing = Standing(since, failures, warned, *self._park(event_id, now, probe))
        if not (self.over or self._is_news(now)):
            return None
        reason = "gone" if gone else "failing"
        return self._tell(max(since + self._limits.failing_for, now), reason if self.over else None)

    def untold(self) -> Report | None:
        """What was not worth telling so far, and would be forgotten with this."""
        if self.failing_since is None or self._told == self._standing or self.over:
            return None
        return self._tell(self.failing_since + self._limits.failing_for, None)

    def forgive(self, outage: timedelta, now: datetime) -> None:
        """For so long the fault was ours: it does not count."""
        if self.failing_since is not None:
            self.failing_since = min(self.failing_since + outage, now)
            self._standing = self._standing._replace(failing_since=self.failing_since)

    def spare(self, now: datetime) -> None:
        """A probe came to nothing, through no fault of the receiver's: the next one waits as long again."""
        if self.probe_at is not None:
            self._standing = self._standing._replace(next_probe_at=now + _interval(self._standing.probes))

    def _park(self, event_id: int, now: datetime, probe: bool) -> tuple[datetime | None, int]:
        """When it is probed next, and how many probes have failed."""
        _, _, _, probe_at, probes = self._standing
        if probe_at is None:
            self._failed.add(event_id)
            return (now + _interval(0) if len(self._failed) >= _PARK_AFTER else None), 0
        # What was sent before it was parked says nothing new.
        return (now + _interval(probes + 1), probes + 1) if probe else (probe_at, probes)

    def _is_news(self, now: datetime) -> bool:
        told, standing = self._told, self._standing
        if (told.warned, told.next_probe_at) != (standing.warned, standing.next_probe_at):
            return True
        lasting = standing.failing_since is not None and now - standing.failing_since >= _WORTH_TELLING
        return told.failing_since is None and lasting and standing.failures >= _WORTH_TELLING_FAILURES

    def _tell(self, ends: datetime, deactivate: str | None) -> Report:
        self._told = self._standing
        return Report(self._webhook_id, self._standing, ends, deactivate, self._error)


def _interval(probes: int) -> timedelta:
    """How long to wait after so many failed probes."""
    return min(_FIRST_PROBE * (1 << min(probes, 20)), _LONGEST_PROBE)
