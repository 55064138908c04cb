"""Receivers that hang do not hold up the others: a simulation of lanes, without a clock and without a network."""

from __future__ import annotations

from heapq import heappop, heappush

import pytest

from bisd.delivery.lane import END
from bisd.health import Limits
from bisd.lanes import Lanes
from bisd.model import Delivery, Took
from tests.support.table import START, delivery, seconds, webhook

LIMITS = Limits(failing_for=seconds(1e9), min_attempts=10)
WEBHOOKS, TIMEOUT, HEALTHY = 1000, 15.0, 0.01


def wait_of_the_healthy(hung: set[int], in_flight: int, lasts: float, hang_from: float = 0.0) -> list[tuple[float, float]]:
    """When each delivery to a healthy receiver fell due, and how many seconds it waited until it was sent. Every webhook gets
    one a second; those that hang time out, from `hang_from` seconds on, and are tried again a minute later."""
    lanes = Lanes(32, LIMITS, window=2000, budget=10_000_000, in_flight=in_flight)
    for number in range(WEBHOOKS):
        lanes.put(webhook(number)._replace(account_id=number), END)
    events: list[tuple[float, int, str, Delivery]] = []
    for number in range(int(lasts * WEBHOOKS)):
        due = START + seconds(number / WEBHOOKS)
        one = Delivery(number * 7 % WEBHOOKS, number, due, due, due, 0, "t", b"{}", 2)
        heappush(events, (number / WEBHOOKS, number, "arrives", one))
    waits, flying, now = [], 0, 0.0
    while events and now < lasts:
        now, number, what, one = heappop(events)
        if what == "arrives":
            lanes.arrive([one])
        else:
            flying -= 1
            fails = what == "fails"
            lanes.finish(one, Took.NO if fails else Took.YES, START + seconds(now), "timeout", TIMEOUT if fails else HEALTHY)
            lanes.written(one, one._replace(attempts=1, due_at=START + seconds(now + 60)) if fails else None)
        while flying < in_flight and (turn := lanes.next(START + seconds(now))) is not None:
            flying += 1
            fails = turn.webhook.id in hung and now >= hang_from
            ends = now + (TIMEOUT if fails else HEALTHY)
            heappush(events, (ends, turn.delivery.event_id, "fails" if fails else "is taken", turn.delivery))
            if turn.webhook.id not in hung:
                due_at = (turn.delivery.due_at - START).total_seconds()
                waits.append((due_at, now - due_at))
    return waits


@pytest.mark.parametrize("in_flight", [1200, 2000])
def test_receivers_that_hang_from_the_beginning_hold_up_nobody(in_flight: int) -> None:
    """900 of 1,000, with room for one each: no delivery to the others waits at all."""
    waits = wait_of_the_healthy(set(range(900)), in_flight, 40)
    assert (4000, 0.0) == (len(waits), max(wait for _, wait in waits))


def test_where_there_is_no_room_for_all_that_hang_they_hold_up_others_once() -> None:
    """With room for a third of them: a receiver that is new waits for some timeouts; who has taken something does not wait, but
    for what it was owed itself."""
    waits = wait_of_the_healthy(set(range(900)), 400, 100)
    assert max(wait for due, wait in waits if due > 4 * TIMEOUT) <= 0.01
    assert max(wait for _, wait in waits) <= 4 * TIMEOUT


def test_receivers_that_begin_to_hang_together_hold_up_others_for_a_timeout_at_most() -> None:
    """They were trusted, and take what there is; once that has timed out they have a part, and nobody waits any more."""
    waits = wait_of_the_healthy(set(range(900)), 1200, 60, hang_from=10.0)
    assert max(wait for due, wait in waits if due < 10 or due > 10 + 2 + TIMEOUT) == 0.0


@pytest.mark.parametrize("others", ["not due yet", "switched off"])
def test_who_is_called_and_has_nothing_to_send_leaves_its_place_to_the_next(others: str) -> None:
    """Those that wait for room are called one after the other until one of them takes it: none is left waiting for ever."""
    lanes = Lanes(32, LIMITS, in_flight=1)
    for number in (1, 2, 3):
        lanes.put(webhook(number), END)
    lanes.arrive([delivery(1, 1), delivery(2, 2, due=60 if others == "not due yet" else 0), delivery(3, 3)])
    first = lanes.next(START)
    assert (first is not None, None) == (True, lanes.next(START))
    if others == "switched off":
        lanes.put(webhook(2, live=False), END)
    assert first is not None
    lanes.finish(first.delivery, Took.YES, START, "")
    following = lanes.next(START)
    assert (3, None) == (following and following.webhook.id, lanes.next(START))
