"""Pace: how many are in flight, how fast they go, and how a lane comes back."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from math import ceil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bisd.pace import Pace

START = datetime(2026, 1, 1, tzinfo=UTC)
# A timer that is late by so much is made up for.
LATE = 0.020

rates = st.floats(0.001, 100_000)
moments = st.lists(st.one_of(st.floats(0, 0.05), st.floats(0, 3), st.floats(0, 1e5)), min_size=1, max_size=60)


def at(number: float) -> datetime:
    return START + timedelta(seconds=number)


def goes(pace: Pace, now: float) -> bool:
    """Whether one goes now; it is sent if so."""
    if pace.not_before is not None and pace.not_before > at(now):
        return False
    pace.sent(at(now))
    return True


def most_within(times: list[float], span: float) -> int:
    """The most that went within any `span` seconds, both ends included."""
    return max((bisect_right(times, time + span) - n for n, time in enumerate(times)), default=0)


@given(rate=rates, steps=moments, span=st.floats(1, 100))
@example(rate=98_000.0, steps=[0.05] * 60, span=1.0)
@example(rate=3000.0, steps=[0.0004] * 4000, span=1.0)
def test_the_rate_is_never_exceeded(rate: float, steps: list[float], span: float) -> None:
    """Over any second and more, however late or early it is asked: no more than the rate, the one that begins it, and what a
    late timer makes up for. At every moment it would send all it may."""
    pace, now, times = Pace(1000, rate), 0.0, list[float]()
    for step in steps:
        now += step
        while len(times) < 5000 and goes(pace, now):
            times.append(now)
    assert most_within(times, span) <= rate * (span + LATE + 0.000001) + 1


@given(rate=rates, idle=st.floats(0, 1e6))
def test_nothing_is_saved_up(rate: float, idle: float) -> None:
    """However long there was nothing to send: one at once, and as many as a late timer would have brought."""
    pace = Pace(1000, rate)
    pace.sent(START)
    now, together = idle + 1 / rate + 0.001, 0
    while together < 5000 and goes(pace, now):
        together += 1
    assert 1 <= together <= 1 + ceil(rate * LATE)


@given(rate=st.floats(1, 200), late=st.floats(0, 0.019))
def test_a_late_timer_does_not_slow_it_down(rate: float, late: float) -> None:
    """Timers are always a bit late; the hundredth goes when it should all the same."""
    pace, now = Pace(1000, rate), 0.0
    for _ in range(100):
        assert goes(pace, now) is True
        assert pace.not_before is not None
        now = max(now, (pace.not_before - START).total_seconds() + late)
    assert now == pytest.approx(100 / rate + late, abs=0.02)


def test_without_a_rate_nothing_waits() -> None:
    """As many as there are, at one moment."""
    pace = Pace(8, None)
    assert [True] * 1000 == [goes(pace, 0.0) for _ in range(1000)]


@pytest.mark.parametrize("ramping", [False, True])
def test_another_rate_counts_at_once(ramping: bool) -> None:
    """Who raises the rate from one in a thousand seconds need not wait for the thousand to pass; after a probe neither."""
    pace = Pace(8, 0.001)
    if ramping:
        pace.ramp(START)
    assert (ramping, False) == (not goes(pace, 0.0), goes(pace, 1.0))
    pace.change(8, 100.0)
    assert (True, False) == (goes(pace, 1.0), goes(pace, 1.0))


def test_the_same_rate_again_changes_nothing() -> None:
    """A change of something else is no reason to send sooner."""
    pace = Pace(8, 0.1)
    assert True is goes(pace, 0.0)
    pace.change(4, 0.1)
    assert (False, True) == (goes(pace, 9.9), goes(pace, 10.0))


@settings(max_examples=30)
@given(latency=st.floats(0.001, 0.2), ceiling=st.integers(1, 64), rate=st.one_of(st.none(), st.floats(50, 10_000)))
@example(latency=0.001, ceiling=64, rate=None)
def test_a_lane_that_comes_back_ramps_up(latency: float, ceiling: int, rate: float | None) -> None:
    """10,000 are owed when the probe is taken: ten in the first second, twice as many every second after, never more than may
    be in flight, nor than the rate; and all are sent in bounded time."""
    pace = Pace(ceiling, rate)
    pace.park(START)
    pace.ramp(START)
    times = come_back(pace, 10_000, latency)
    for second in range(9):
        ramp = 10 * 2 ** (second + 1)
        within = sum(second <= time < second + 1 for time in times)
        assert within <= ramp * (1 + LATE) + 1
    if rate is not None:
        assert most_within(times, 1.0) <= rate * (1 + LATE + 0.000001) + 1
    # The ramp; growing, one for each window of the limit that was taken; and then at full speed, as the rate allows.
    most = 10 + ceiling * latency + 10_000 * max(latency / ceiling, 1 / rate if rate is not None else 0)
    assert (10_000, True) == (len(times), times[-1] <= most * 1.1)


def come_back(pace: Pace, owed: int, latency: float) -> list[float]:
    """When they go to a receiver that takes each in `latency` seconds, as a lane would send them."""
    now, in_flight, times = 0.0, list[float](), list[float]()
    while len(times) < owed:
        waiting = pace.not_before is not None and pace.not_before > at(now)
        if len(in_flight) < pace.limit and not waiting:
            pace.sent(at(now))
            times.append(now)
            heappush(in_flight, now + latency)
            continue
        due = (pace.not_before - START).total_seconds() if waiting and pace.not_before is not None else float("inf")
        wakes = due if len(in_flight) < pace.limit else float("inf")
        if in_flight and in_flight[0] <= wakes:
            now = heappop(in_flight)
            pace.taken(latency)
        else:
            now = wakes
    return times


def settle(took: Callable[[float], float], ceiling: int, windows: int = 300) -> float:
    """The limit after so many windows; `took` says how long an attempt takes with so many in flight."""
    pace = Pace(ceiling, None)
    for _ in range(windows):
        for _ in range(int(pace.limit)):
            pace.taken(took(pace.limit))
    return pace.limit


@given(latency=st.floats(0.001, 10), ceiling=st.integers(1, 200))
def test_a_receiver_that_is_slow_whatever_it_gets_gets_all_it_may(latency: float, ceiling: int) -> None:
    """More in flight is what makes up for latency."""
    assert ceiling == settle(lambda _: latency, ceiling)


@pytest.mark.parametrize("seed", range(5))
def test_a_receiver_that_is_fast_and_slow_by_turns_is_not_held_back(seed: int) -> None:
    """It takes 20 to 500 ms, by chance: that is not a queue."""
    chance = random.Random(seed)
    assert settle(lambda _: chance.uniform(0.02, 0.5), 32) >= 24


@given(service=st.floats(0.02, 1))
def test_a_receiver_that_does_one_at_a_time_is_not_buried(service: float) -> None:
    """What waits there would wait here: of a thousand it could be given, it gets a few dozen at most, not ever more."""
    assert settle(lambda in_flight: service * in_flight, 1000) <= 40


def test_a_receiver_that_has_become_slower_is_taken_as_it_is() -> None:
    """Ten times slower, whatever it gets: in time it gets as many in flight as before."""
    pace = Pace(32, None)
    for latency, windows in ((0.1, 100), (1.0, 300)):
        for _ in range(windows):
            for _ in range(int(pace.limit)):
                pace.taken(latency)
    assert 32 == pace.limit


@pytest.mark.parametrize("later", [8.9, 9.1, 1100.0, 1e8, -0.1, -3600.0])
def test_a_ramp_ends_however_late_or_early_it_is_asked(later: float) -> None:
    """A lane that came back and had nothing to send for an hour, or whose clock was set back, sends what comes then."""
    pace = Pace(8, None)
    pace.ramp(START)
    pace.sent(at(later))
    assert pace.not_before is None or pace.not_before <= at(max(later, 0) + 0.3)


@given(rate=st.floats(0.001, 10), probe=st.floats(0, 1000))
def test_a_parked_lane_waits_for_its_probe_and_its_rate(rate: float, probe: float) -> None:
    """Whichever is later."""
    pace = Pace(8, rate)
    pace.sent(START)
    pace.park(at(probe))
    assert pace.not_before is not None
    assert max(probe, 1 / rate) == pytest.approx((pace.not_before - START).total_seconds(), abs=0.000002)


class LimitMachine(RuleBasedStateMachine):
    """However its attempts end and its settings change: between one and the ceiling may be in flight; after the end none."""

    @initialize(ceiling=st.integers(1, 100), rate=st.one_of(st.none(), rates))
    def begin(self, ceiling: int, rate: float | None) -> None:
        self.pace = Pace(ceiling, rate)
        self.ceiling = ceiling
        self.now = 0.0

    @rule(times=st.integers(1, 200))
    def taken(self, times: int) -> None:
        before = self.pace.limit
        for _ in range(times):
            self.pace.taken(0.01)
        assert before <= self.pace.limit

    @rule()
    def failed(self) -> None:
        half = max(1.0, self.pace.limit / 2)
        self.pace.failed()
        assert half == self.pace.limit

    @rule(ceiling=st.integers(1, 100), rate=st.one_of(st.none(), rates))
    def change(self, ceiling: int, rate: float | None) -> None:
        self.pace.change(ceiling, rate)
        self.ceiling = ceiling

    @rule(after=st.floats(0, 300))
    def park(self, after: float) -> None:
        self.pace.park(at(self.now + after))
        assert 1.0 == self.pace.limit

    @rule()
    def ramp(self) -> None:
        self.pace.ramp(at(self.now))
        assert 1.0 == self.pace.limit

    @rule(by=st.floats(-10, 2000))
    def send(self, by: float) -> None:
        self.now += by
        self.pace.sent(at(self.now))

    @invariant()
    def is_between_one_and_the_ceiling(self) -> None:
        assert 1 <= self.pace.limit <= self.ceiling

    def teardown(self) -> None:
        self.pace.stop()
        assert 0 == self.pace.limit


TestLimitMachine = LimitMachine.TestCase
