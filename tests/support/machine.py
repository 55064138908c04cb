"""How fast it is here, just now: a promise of time is one for a machine that has its processors to itself."""

from __future__ import annotations

import time

_STEPS = 100_000
# What a step of a loop takes on such a machine, in seconds.
_STEP = 40e-9


def within(took: float, bound: float) -> bool:
    """Whether it took less than `bound`, in seconds; or less than that is here, where a loop takes as much longer just now."""
    return took < bound or took < bound * _slowness()


def _slowness() -> float:
    return max(1.0, min(_loop() for _ in range(3)) / (_STEPS * _STEP))


def _loop() -> float:
    began, total = time.perf_counter(), 0
    for step in range(_STEPS):
        total += step
    return time.perf_counter() - began
