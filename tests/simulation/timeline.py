"""Virtual time: one line of events for the whole world, and for each daemon an event loop that lives by it.

A process can be stopped and goes on later (its timers ring late, and what it was sent waits), or can be killed: then nothing of
it ever runs again, not even what would clean up.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Timeline:
    """Seconds that pass only from one event to the next. What falls together happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []

    def at(self, when: float, call: Callable[..., object], *arguments: Any) -> None:
        heappush(self._due, (max(when, self.now), next(self._numbers), call, arguments))

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        heappush(self._due, (self.now + seconds, next(self._numbers), call, arguments))

    def run(self, until: float, over: Callable[[], bool] = lambda: False) -> None:
        """Until then, or until it is over."""
        due = self._due
        while due and due[0][0] <= until and not over():
            self.now, _, call, arguments = heappop(due)
            call(*arguments)


class Loop(asyncio.AbstractEventLoop):
    """What asyncio asks of an event loop, as far as the daemon's own parts ask it. `step` is how long a turn of it takes."""

    def __init__(self, timeline: Timeline, step: Callable[[], float]) -> None:
        self.faults: list[dict[str, Any]] = []
        self._timeline = timeline
        self._step = step
        self._ready: deque[asyncio.Handle] = deque()
        self._turning = False
        self._stopped = False
        self._dead = False

    def stop(self) -> None:
        """As SIGSTOP does."""
        self._stopped = True

    def go_on(self) -> None:
        self._stopped = False
        self._stir()

    def kill(self) -> None:
        self._dead = True
        self._ready.clear()

    @property
    def runs(self) -> bool:
        return not (self._dead or self._stopped)

    def time(self) -> float:
        return self._timeline.now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._dead:
            self._ready.append(handle)
            self._stir()
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._timeline.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timeline.at(when, self._ring, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: object = None, context: Context | None = None) -> Any:
        task = asyncio.Task(coro, loop=self, name=name, context=context)  # type: ignore[arg-type]
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a process that is killed ends none of its own
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._dead:
            self.faults.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def _ring(self, handle: asyncio.TimerHandle) -> None:
        if not self._dead and not handle.cancelled():
            self._ready.append(handle)
            self._stir()

    def _stir(self) -> None:
        if not self._turning and not self._stopped:
            self._turning = True
            self._timeline.after(self._step(), self._turn)

    def _turn(self) -> None:
        self._turning = False
        if not self.runs:
            return
        events._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                if self._ready:
                    handle = self._ready.popleft()
                    if not handle.cancelled():
                        handle._run()
        finally:
            events._set_running_loop(None)
        if self._ready:
            self._stir()
