"""Vigil: whether the daemon is alive, and how it is doing, told to systemd.

Alive is who turns its loops: not whose database answers. A database that is away is waited for, and starting anew would not
bring it back. Housekeeping is not watched: it sleeps for an hour, and every statement of its ends by a timeout.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from time import monotonic

from bisd import log, systemd

# Seconds.
_LAG = 5.0
_STEP = 0.5
# So many times within what systemd grants, so that one that comes late does not matter.
_TIMES = 3
_TELL_EVERY = 5.0


class Vigil:
    """`stalled` names the loops that have not turned for too long. `status`: a line, of how many seconds. `lagged` is told by
    how much the event loop was late, step by step."""

    def __init__(
        self,
        stalled: Callable[[], list[str]],
        status: Callable[[float], str],
        lagged: Callable[[float], None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._stalled = stalled
        self._status = status
        self._lagged = lagged
        self._granted = systemd.watchdog(environment, os.getpid())
        self._worst = 0.0
        self._well = True
        self._log = log.get()

    async def run(self) -> None:
        """Until cancelled."""
        every = _TELL_EVERY if self._granted is None else min(_TELL_EVERY, self._granted / _TIMES)
        step = min(_STEP, every)
        watched_at = counted_at = monotonic()
        told_at = counted_at - _TELL_EVERY  # the first line comes at once
        while True:
            began = monotonic()
            await asyncio.sleep(step)
            now = monotonic()
            lag = max(0.0, now - began - step)
            self._lagged(lag)
            self._worst = max(self._worst, lag)
            if now - watched_at >= every - step / 2:
                watched_at = now
                self._watch()
            if now - told_at >= _TELL_EVERY - step / 2:
                systemd.notify(f"STATUS={self._status(now - counted_at)}")
                told_at = counted_at = now

    def _watch(self) -> None:
        """One round: WATCHDOG=1 only if the event loop was never late for long, and every loop turns."""
        lag, self._worst = self._worst, 0.0
        stalled = self._stalled()
        late = lag > (_LAG if self._granted is None else min(_LAG, self._granted / 2))
        well = not stalled and not late
        if well and self._granted is not None:
            systemd.notify("WATCHDOG=1")
        if self._well and not well:
            self._log.error(log.Event.STALLED, loops=stalled, lag=round(lag, 3))
        self._well = well
