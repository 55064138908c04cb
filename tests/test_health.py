"""Health: when a webhook is parked, when it is probed, when its owner is warned, and when it is deactivated.

The model beside the state machine is written from the words of the promise, over the whole list of what came back.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bisd.health import Health, Limits, Report
from bisd.model import WELL, Standing

START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(failing_for=timedelta(days=3), min_attempts=10)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class Failure(NamedTuple):
    at: datetime
    event_id: int


class Promise:
    """What is promised, told naively: from all failures since the last success."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.failures: list[Failure] = []
        self.different: set[int] = set()
        self.warned = 0
        self.told = False
        self.probes: list[datetime] | None = None  # those that failed since it was parked; None: it is not
        self.probe_at: datetime | None = None
        self.told_probe_at: datetime | None = None
        self.deactivated: str | None = None

    def fail(self, failure: Failure, gone: bool, probe: bool) -> bool:
        """Whether there is something to tell."""
        if self.deactivated:
            return False
        self.failures.append(failure)
        self.different.add(failure.event_id)
        lasted, number = failure.at - self.failures[0].at, len(self.failures)
        if self.probes is None and len(self.different) == 5:
            self.probes = []
            self.probe_at = failure.at + seconds(1)
        elif self.probes is not None and probe:
            self.probes.append(failure.at)
            self.probe_at = failure.at + self.wait()
        news = self.probe_at != self.told_probe_at
        for percent in (50, 75):
            half_way = lasted * 100 >= self.limits.failing_for * percent and number * 100 >= self.limits.min_attempts * percent
            if half_way and percent > self.warned:
                self.warned, news = percent, True
        if gone:
            self.deactivated = "gone"
        elif lasted >= self.limits.failing_for and number >= self.limits.min_attempts:
            self.deactivated = "failing"
        news = news or self.deactivated is not None or (not self.told and lasted >= seconds(10) and number >= 3)
        if news:
            self.told, self.told_probe_at = True, self.probe_at
        return news

    def wait(self) -> timedelta:
        """A second, doubled with every probe that failed, five minutes at most."""
        return min(seconds(1 << min(len(self.probes or ()), 9)), seconds(300))

    def report(self, now: datetime, error: str) -> Report:
        since = self.failures[0].at
        ends = max(now, since + self.limits.failing_for)
        return Report(7, Standing(since, len(self.failures), *self.state()), ends, self.deactivated, error)

    def state(self) -> tuple[int, datetime | None, int]:
        return self.warned, self.probe_at, len(self.probes or ())


class HealthMachine(RuleBasedStateMachine):
    """Whatever comes back, whenever, and however often the daemon starts anew: what is promised happens, each once."""

    @initialize(failing_for=st.sampled_from((5, 60, 3600, 259_200)), attempts=st.sampled_from((1, 2, 4, 10, 30)))
    def begin(self, failing_for: int, attempts: int) -> None:
        self.limits = Limits(seconds(failing_for), attempts)
        self.now = START
        self.events = 0
        self.succeeded_at: list[datetime] = []
        self._begin()

    def _begin(self) -> None:
        """Switched on: all is well."""
        self.promise = Promise(self.limits)
        self.health = Health(7, self.limits, WELL)
        self.row = WELL  # what the database was last told
        self.warnings: list[int] = []
        self.deactivations = 0

    @rule(share=st.sampled_from((0.0, 0.001, 0.1, 0.25, 0.5, 1.0)), by=st.sampled_from((0, 1, 10, 400)))
    def advance(self, share: float, by: float) -> None:
        self.now += self.limits.failing_for * share + seconds(by)

    @rule(new=st.booleans(), again=st.integers(0, 6), gone=st.sampled_from([False] * 20 + [True]))
    def fail(self, new: bool, again: int, gone: bool) -> None:
        """An attempt failed: of another delivery, or of one that has failed before; no probe."""
        self.events += new
        self._fail(max(self.events - again, 1), gone, False)

    @rule(times=st.integers(1, 6), by=st.sampled_from((0, 1, 100)))
    def outage(self, times: int, by: float) -> None:
        """Attempts of so many different deliveries fail."""
        for _ in range(times):
            self.now += seconds(by)
            self.fail(True, 0, False)

    @precondition(lambda self: self.promise.probes is not None and not self.promise.deactivated)
    @rule(late=st.sampled_from((0, 0.5, 30)), new=st.booleans(), gone=st.sampled_from([False] * 20 + [True]))
    def fail_probe(self, late: float, new: bool, gone: bool) -> None:
        self._wait_for_probe(late)
        self.events += new
        self._fail(self.events, gone, True)

    @precondition(lambda self: self.promise.probes is not None and not self.promise.deactivated)
    @rule(late=st.sampled_from((0, 0.5, 30)))
    def spare_probe(self, late: float) -> None:
        """A fault of ours, say: it counts for nothing, and the next one waits as long again."""
        self._wait_for_probe(late)
        self.health.spare(self.now)
        self.promise.probe_at = self.now + self.promise.wait()

    @rule()
    def succeed(self) -> None:
        expected = Report(7, WELL, None, None, "") if self.promise.told and not self.promise.deactivated else None
        assert expected == self.health.succeed()
        if expected is not None:
            self.row = WELL
        if not self.promise.deactivated:
            self.promise = Promise(self.limits)
            self.warnings.clear()
            self.succeeded_at.append(self.now)

    @precondition(lambda self: not self.promise.deactivated)
    @rule()
    def start_anew(self) -> None:
        """Another daemon goes on from the row, with the failures counted anew: of what was never told it knows nothing."""
        if not self.promise.told:
            self.promise = Promise(self.limits)
        self.promise.different.clear()
        self.promise.probe_at = self.row.next_probe_at
        failures = len(self.promise.failures)
        self.health = Health(7, self.limits, self.row._replace(failures=failures))

    @precondition(lambda self: self.promise.deactivated)
    @rule()
    def switch_on(self) -> None:
        self._begin()

    @invariant()
    def is_as_promised(self) -> None:
        promise = self.promise
        if not promise.deactivated:
            since = promise.failures[0].at if promise.failures else None
            assert (since, promise.probe_at, False) == (self.health.failing_since, self.health.probe_at, self.health.over)

    def _wait_for_probe(self, late: float) -> None:
        if self.promise.probe_at is not None:
            self.now = max(self.now, self.promise.probe_at) + seconds(late)

    def _fail(self, event_id: int, gone: bool, probe: bool) -> None:
        news = self.promise.fail(Failure(self.now, event_id), gone, probe)
        report = self.health.fail(event_id, self.now, "status 500", gone=gone, probe=probe)
        assert report == (self.promise.report(self.now, "status 500") if news else None)
        assert self.health.over == (self.promise.deactivated is not None)
        if report is not None:
            self._told(report)

    def _told(self, report: Report) -> None:
        """What holds of what is told, whatever the model says."""
        self.row = report.standing
        if report.deactivate is None and report.standing.warned > max(self.warnings, default=0):
            self.warnings.append(report.standing.warned)
        assert sorted(set(self.warnings)) == self.warnings
        self.deactivations += report.deactivate is not None
        assert self.deactivations <= 1
        if report.deactivate == "failing":
            assert [] == [at for at in self.succeeded_at if at > self.now - self.limits.failing_for]


HealthMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60)
TestHealthMachine = HealthMachine.TestCase


def failing(health: Health, times: list[float], first: int = 1) -> list[Report | None]:
    """What is told when a different delivery fails at each of these seconds."""
    return [health.fail(first + n, START + seconds(at), "status 500") for n, at in enumerate(times)]


def deactivated(reports: list[Report | None]) -> list[str]:
    return [report.deactivate for report in reports if report is not None and report.deactivate is not None]


def test_deactivated_after_three_days_and_ten_failures() -> None:
    """Not with the tenth failure before the time is over, not a microsecond early, but then; and once."""
    health, days = Health(7, LIMITS, WELL), 86400.0
    assert [] == deactivated(failing(health, [*range(10), 3 * days - 0.000001]))
    assert ["failing"] == deactivated(failing(health, [3 * days, 3 * days + 1, 4 * days]))


@pytest.mark.parametrize(("failures", "expected"), [(9, []), (10, ["failing"])])
def test_time_alone_does_not_deactivate(failures: int, expected: list[str]) -> None:
    """Nine failures in a year are too few to tell."""
    times = [n * 40 * 86400.0 for n in range(failures)]
    assert expected == deactivated(failing(Health(7, LIMITS, WELL), times))


def test_one_success_begins_the_count_anew() -> None:
    """A success a second before the three days are over: from the next failure on, there are three more."""
    health, days = Health(7, LIMITS, WELL), 86400.0
    failing(health, [float(n) for n in range(20)])
    assert Report(7, WELL, None, None, "") == health.succeed()
    later = [3 * days + n for n in range(20)]
    assert ([], ["failing"]) == (deactivated(failing(health, later)), deactivated(failing(health, [6 * days])))


def test_gone_deactivates_at_once() -> None:
    """410 with the first attempt; what is answered afterwards is told no more, not even a success."""
    health = Health(7, LIMITS, WELL)
    standing = Standing(START, 1, 0, None, 0)
    expected = Report(7, standing, START + LIMITS.failing_for, "gone", "status 410")
    assert expected == health.fail(1, START, "status 410", gone=True)
    assert (None, None) == (health.fail(2, START, "status 410", gone=True), health.succeed())


def test_warned_at_half_and_at_three_quarters_of_the_way() -> None:
    """Of the time or of the attempts, whichever lags behind; each once."""
    by_time = failing(Health(7, LIMITS, WELL), [*[0.0] * 20, 129_599.0, 129_600.0, 130_000.0, 194_399.0, 194_400.0, 200_000.0])
    by_count = failing(Health(7, LIMITS, WELL), [0.0, *[259_199.0] * 8])
    assert [(21, 50), (24, 75)] == steps(by_time)
    assert [(4, 50), (7, 75)] == steps(by_count)


def steps(reports: list[Report | None]) -> list[tuple[int, int]]:
    """With which report more was warned of than before."""
    told, found = 0, []
    for number, report in enumerate(reports):
        if report is not None and report.standing.warned > told:
            told = report.standing.warned
            found.append((number, told))
    return found


def test_a_moment_s_failure_is_not_told() -> None:
    """Failures within ten seconds, or fewer than three, change no row; nor does their end."""
    health = Health(7, LIMITS, WELL)
    assert ([None] * 4, None) == (failing(health, [0, 5, 9, 9.9]), health.succeed())
    assert ([None] * 2, None) == (failing(health, [10, 1000]), health.succeed())


def test_recovered_is_told_once() -> None:
    """If the failing was told."""
    health = Health(7, LIMITS, WELL)
    reports = failing(health, [0, 5, 10, 11])
    assert [False, False, True, False] == [report is not None for report in reports]
    assert [Report(7, WELL, None, None, ""), None] == [health.succeed(), health.succeed()]


def test_parked_after_five_different_deliveries() -> None:
    """In a row: with the fifth, and with a probe a second later."""
    health = Health(7, LIMITS, WELL)
    assert [None] * 4 == failing(health, [0, 0, 0, 0])
    health.succeed()
    assert [None] * 4 == failing(health, [0, 0, 0, 0])
    assert health.probe_at is None
    failing(health, [2], first=5)
    assert START + seconds(3) == health.probe_at


@given(failures=st.integers(1, 300), by=st.floats(0, 1e5))
def test_one_poisonous_delivery_parks_nothing(failures: int, by: float) -> None:
    """It may fail for ever: it may be that body."""
    health = Health(7, LIMITS, WELL)
    for number in range(failures):
        health.fail(1, START + seconds(by * number), "status 500")
    assert health.probe_at is None


def test_probes_wait_twice_as_long_each_up_to_five_minutes() -> None:
    """1 s, 2 s, 4 s, ... 256 s, 5 min, and so on for ever; a success ends it, and the next parking begins with 1 s."""
    health, now, waits = Health(7, Limits(timedelta(days=3650), 1000), WELL), START, []
    failing(health, [0.0] * 5)
    for number in range(40):
        assert health.probe_at is not None
        waits.append((health.probe_at - now).total_seconds())
        now = health.probe_at
        health.fail(100 + number, now, "status 500", probe=True)
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256] + [300] * 31 == waits
    health.succeed()
    assert health.probe_at is None
    failing(health, [1e6] * 5)
    assert START + seconds(1e6 + 1) == health.probe_at


def test_stragglers_do_not_lengthen_the_interval() -> None:
    """Thirty that were sent before it was parked fail one after the other: the first probe still goes after a second."""
    health = Health(7, LIMITS, WELL)
    failing(health, [0.0] * 5)
    failing(health, [0.9] * 30, first=6)
    assert START + seconds(1) == health.probe_at


def test_a_clock_that_goes_back_deactivates_nothing() -> None:
    """The database's clock was set back a year, and forth again: the way is as long as it is."""
    health = Health(7, LIMITS, WELL)
    back = -365 * 86400.0
    assert [] == deactivated(failing(health, [0.0, *[back] * 50, 259_199.0]))
    assert ["failing"] == deactivated(failing(health, [259_200.0]))


def test_a_clock_that_goes_back_warns_of_nothing_twice() -> None:
    """What was told is told, though the way is shorter again."""
    reports = failing(Health(7, LIMITS, WELL), [*[0.0] * 10, 130_000.0, 1.0, 130_000.0, 200_000.0, 130_000.0, 200_000.0])
    warned = [report.standing.warned for report in reports if report is not None]
    assert [(10, 50), (13, 75)] == steps(reports)
    assert sorted(warned) == warned
