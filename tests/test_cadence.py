"""The cadence: when to look next, so that nothing waits for long and an idle daemon hardly looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisd.delivery.arrival import Cadence, Snapshot

SOON, SLOT, LINGER, SWEEP = 0.002, 0.005, 0.060, 1.0

moments = st.floats(0, 1e6)


def quiet(at: int) -> Snapshot:
    """Nothing was running when this was taken."""
    return Snapshot.parse(f"{at}:{at}:")


def running(oldest: int, next_one: int) -> Snapshot:
    return Snapshot.parse(f"{oldest}:{next_one}:{oldest}")


@given(xmin=st.integers(1, 2**63), more=st.integers(0, 1000), data=st.data())
def test_snapshot_is_parsed_as_postgresql_writes_it(xmin: int, more: int, data: st.DataObject) -> None:
    """xmin, xmax, and the text itself unchanged, with any number of transactions in progress."""
    in_progress = data.draw(st.lists(st.integers(xmin, xmin + more), max_size=5, unique=True).map(sorted))
    text = f"{xmin}:{xmin + more}:{','.join(map(str, in_progress))}"
    assert Snapshot(text, xmin, xmin + more) == Snapshot.parse(text)


@pytest.mark.parametrize("text", ["", "1:2", "1:2:3:4", "a:b:", "1::"])
def test_what_is_no_snapshot_is_not_taken_for_one(text: str) -> None:
    """A snapshot that cannot be read is a fault, not a snapshot of something else."""
    with pytest.raises(ValueError, match=r"."):
        Snapshot.parse(text)


@given(now=moments, xmin=st.integers(1, 1000), more=st.integers(0, 1000))
def test_sleeps_until_the_sweep_when_no_bell_was_heard(now: float, xmin: int, more: int) -> None:
    """Idle is one look a second, even while transactions that have nothing to do with us are running."""
    assert SWEEP == Cadence().wait(running(xmin, xmin + more), now, now)


@given(now=moments, age=st.floats(0, LINGER * 0.99))
def test_lingers_after_the_bell(now: float, age: float) -> None:
    """Some that ring are rolled back, and some that relied on them are not: more looks within some tens of milliseconds."""
    cadence = Cadence()
    cadence.rung(now)
    cadence.wait(quiet(100), now, now)
    assert SOON <= cadence.wait(quiet(100), now + age, now + age) <= LINGER / 4


@given(now=moments, age=st.floats(LINGER * 1.01, 1e5))
def test_sleeps_until_the_sweep_after_lingering(now: float, age: float) -> None:
    """When what was running when the bell's slot was over has ended, whatever began later is announced by a bell of its own."""
    cadence = _rung(now, running(90, 100))
    assert SWEEP == cadence.wait(running(100, 2000), now + age, now + age)


@given(now=moments, age=st.floats(2 * SLOT, 1e5), later=st.integers(0, 1000))
def test_looks_on_while_what_ran_in_the_slot_is_running(now: float, age: float, later: int) -> None:
    """A transaction that skipped the bell ran when the slot was over: it is looked for soon, then less and less often."""
    cadence = _rung(now, running(90, 100))
    wait = cadence.wait(running(99, 100 + later), now + age, now + age)
    heard = (now + age) - now  # as far as floats can tell
    assert min(max(SOON, heard / 4), SWEEP) == wait


@given(now=moments, began=st.floats(0, SLOT * 0.99), took=st.floats(0, 10))
def test_a_look_that_began_within_the_slot_is_not_the_last(now: float, began: float, took: float) -> None:
    """Nothing ran when it was begun; but a transaction may have begun after that, and skipped the bell. However long the look
    took, another one is made, which finds it."""
    cadence = Cadence()
    cadence.rung(now)
    at = now + began + took
    again = cadence.wait(quiet(100), now + began, at)
    assert min(max(SOON, (at - now) / 4), SWEEP) == again
    later = at + max(again, SLOT)
    assert min(max(SOON, (later - now) / 4), SWEEP) == cadence.wait(running(100, 101), later, later)


def test_backs_off_up_to_the_sweep() -> None:
    """A transaction that stays open for a minute costs some tens of looks, not thousands, and then one a second."""
    cadence = Cadence()
    cadence.rung(0.0)
    now, waits = 0.0, []
    while now < 60:
        waits.append(cadence.wait(running(99, 100), now, now))
        now += waits[-1]
    assert sorted(waits) == waits
    assert (SOON, SWEEP) == (waits[0], waits[-1])
    assert 60 < len(waits) < 100


def test_a_late_commit_is_seen_within_a_quarter_of_its_delay() -> None:
    """Whoever commits t after the bell waits at most t / 4 (or two milliseconds) for the look that finds it."""
    cadence = Cadence()
    cadence.rung(0.0)
    now = 0.0
    while now < 4:
        wait = cadence.wait(running(99, 100), now, now)
        assert wait <= max(SOON, now / 4)
        now += wait


def test_every_bell_begins_anew() -> None:
    """After a second bell it is again the transactions of that moment that are waited for, and soon."""
    cadence = _rung(0.0, running(90, 100))
    assert SWEEP == cadence.wait(running(150, 200), 10.0, 10.0)
    cadence.rung(10.0)
    assert SOON == cadence.wait(running(150, 200), 10.0, 10.0)
    assert SOON == cadence.wait(running(150, 200), 10.0078125, 10.0078125)
    assert 0.0625 == cadence.wait(running(199, 300), 10.25, 10.25)
    assert SWEEP == cadence.wait(running(200, 300), 10.25, 10.25)


def _rung(now: float, snapshot: Snapshot) -> Cadence:
    """A bell was heard, and looked after once its slot was over."""
    cadence = Cadence()
    cadence.rung(now)
    cadence.wait(snapshot, now + 2 * SLOT, now + 2 * SLOT)
    return cadence
