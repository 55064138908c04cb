"""The checker can fail: each rule sees what breaks it, and nothing in a history where all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.torture.checker import Terms, check
from tests.torture.facts import Attempt, Event, Facts, State
from tests.torture.ledger import Fault, Ledger, Request

CREATE = "notification/create"
TERMS = Terms({1: (7, CREATE), 2: (7, CREATE)}, frozenset({1, 2}), frozenset({2}), max_attempts=3, timeout=3.0)
# Seconds of the ledger's clock, and of the database's.
_AT, _STAMP = 100.0, 5_000


def _history() -> tuple[Ledger, Facts]:
    """Two notifications, two webhooks: all taken at once but one, which was taken the second time."""
    ledger, facts = Ledger(), Facts()
    for number in (1, 2):
        ledger.committed[number, CREATE] = _AT
        facts.events[number] = Event(number, 7, CREATE, f"body {number}")
        for webhook_id in (1, 2):
            pair = (webhook_id, number)
            ledger.owed[pair] = _AT
            facts.states[pair] = [State("delivered", 1)]
            _send(ledger, facts, pair, 0.1 * number, 200)
    first = ledger.requests[0]
    first.status, first.answered_at = 500, first.at + 0.01
    facts.attempts[1, 1] = [Attempt(_STAMP + 0.1, 1, "retry", 500, False)]
    facts.states[1, 1] = [State("delivered", 2)]
    _send(ledger, facts, (1, 1), 1.3, 200)
    return ledger, facts


def _send(ledger: Ledger, facts: Facts, pair: tuple[int, int], after: float, status: int | None) -> Request:
    """A request that came so many seconds after the beginning, and its attempt."""
    at = _AT + after
    request = Request(pair, f"body {pair[1]}", True, 1, int(_STAMP + after), at, 1, status, at + 0.01)
    ledger.requests.append(request)
    attempts = facts.attempts.setdefault(pair, [])
    attempts.append(Attempt(_STAMP + after, len(attempts) + 1, "delivered", status, False))
    return request


def _lose(ledger: Ledger, facts: Facts) -> None:
    del facts.states[1, 2], ledger.owed[1, 2], facts.attempts[1, 2]
    ledger.requests.remove(next(request for request in ledger.requests if request.pair == (1, 2)))


def _forget(_: Ledger, facts: Facts) -> None:
    del facts.states[1, 2]


def _uncommit(ledger: Ledger, _: Facts) -> None:
    ledger.undone.add((2, CREATE))
    del ledger.committed[2, CREATE]


def _vanish(ledger: Ledger, _: Facts) -> None:
    ledger.committed[3, CREATE] = _AT


def _double(_: Ledger, facts: Facts) -> None:
    facts.events[9] = facts.events[2]._replace(digest="body 9")
    facts.states |= {(1, 9): [State("delivered", 1)], (2, 9): [State("delivered", 1)]}


def _pretend(ledger: Ledger, _: Facts) -> None:
    """The receiver said 503, the database that it was taken."""
    next(request for request in ledger.requests if request.pair == (1, 2)).status = 503


def _give_up(_: Ledger, facts: Facts) -> None:
    facts.states[1, 2] = [State("failed", 2)]


def _cancel(_: Ledger, facts: Facts) -> None:
    facts.states[1, 2] = [State("cancelled", 0)]


def _leave(_: Ledger, facts: Facts) -> None:
    facts.states[1, 2] = [State("retrying", 1)]


def _settle_twice(_: Ledger, facts: Facts) -> None:
    facts.states[1, 2] = [State("delivered", 1), State("pending", 0)]


def _change_body(ledger: Ledger, _: Facts) -> None:
    ledger.requests[-1].digest = "body 0"


def _forge(ledger: Ledger, _: Facts) -> None:
    ledger.requests[-1].verified = False


def _invent(ledger: Ledger, _: Facts) -> None:
    ledger.requests[-1].pair = (1, 8)


def _repeat(ledger: Ledger, facts: Facts) -> None:
    _send(ledger, facts, (1, 2), 2.0, 200)


def _overlap(ledger: Ledger, facts: Facts) -> None:
    """It was asked again while it was about to answer."""
    ledger.requests[0].answered_at = _AT + 1.5


def _lose_attempt(_: Ledger, facts: Facts) -> None:
    facts.attempts[1, 2].clear()


def _dream_attempt(_: Ledger, facts: Facts) -> None:
    facts.attempts[1, 2].append(Attempt(_STAMP + 60.0, 2, "delivered", 200, False))


def _disorder(ledger: Ledger, _: Facts) -> None:
    next(request for request in ledger.requests if request.pair == (2, 1)).at += 50


BREAKING: list[tuple[Callable[[Ledger, Facts], None], str]] = [
    (_lose, "lost: event 2 is not owed to webhook 1, and never was"),
    (_forget, "lost: (1, 2) was owed, and is gone without a trace"),
    (_uncommit, "(2, 'notification/create') was taken back, and is an event"),
    (_vanish, "(3, 'notification/create') was committed, and is 0 events"),
    (_double, "(2, 'notification/create') is 2 events"),
    (_pretend, "lost: (1, 2) is delivered, they say, and no receiver took it"),
    (_give_up, "lost: (1, 2) was given up after 2 attempts"),
    (_cancel, "lost: (1, 2) is cancelled, and nobody asked for it"),
    (_leave, "(1, 2) is retrying still, after 1 attempts"),
    (_settle_twice, "(1, 2) has 2 states"),
    (_change_body, "(1, 1) was sent with other bytes than the event has"),
    (_forge, "(1, 1) was sent with a signature that does not hold"),
    (_invent, "(1, 8) was sent, and there is no such event"),
    (_repeat, "repeated: (1, 2) was taken at 100.200 and sent again at 102.000, without a fault"),
    (_overlap, "(1, 1) was under way twice at 101.300, without a fault"),
    (_lose_attempt, "(1, 2) was sent in second 5000, at [(100.2, 200)], and 0 attempts are recorded"),
    (_dream_attempt, "(1, 2) was answered 200 at 5060.000, they say, and no receiver was asked"),
    (_disorder, "webhook 2 took event 2 before event 1"),
]


def test_a_good_history_is_good() -> None:
    """Nothing is said of what went as it should."""
    assert check(*_history(), TERMS) == []


@pytest.mark.parametrize(("breaking", "sentence"), BREAKING, ids=[breaking.__name__[1:] for breaking, _ in BREAKING])
def test_what_is_broken_is_seen(breaking: Callable[[Ledger, Facts], None], sentence: str) -> None:
    """One thing is broken, and there is a sentence that says which."""
    ledger, facts = _history()
    breaking(ledger, facts)
    assert any(said.startswith(sentence) for said in check(ledger, facts, TERMS)), check(ledger, facts, TERMS)


@pytest.mark.parametrize(
    ("fault", "excused"),
    [
        (Fault("kill", cuts=True, slack=0.5, began=_AT + 0.5, ended=_AT + 0.6), True),
        (Fault("kill", cuts=True, slack=0.5, began=_AT + 0.5, ended=_AT + 0.6, pid=1), True),
        (Fault("kill of another", cuts=True, slack=0.5, began=_AT + 0.5, ended=_AT + 0.6, pid=2), False),
        (Fault("SIGTERM", cuts=False, began=_AT + 0.5, ended=_AT + 0.6), False),
        (Fault("too late", cuts=True, slack=0.5, began=_AT + 0.9, ended=_AT + 1.0), False),
        (Fault("too early", cuts=True, slack=0.5, began=_AT - 5.0, ended=_AT - 4.0), False),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_only_a_fault_that_cut_it_excuses_a_repeat(fault: Fault, excused: bool) -> None:
    """One that happened at another time, to another process, or that cuts nothing, does not; where it does, it is counted."""
    ledger, facts = _history()
    _repeat(ledger, facts)
    ledger.strike(fault)
    said = check(ledger, facts, TERMS)
    assert (said == []) is excused
    assert fault.repeats == excused


def test_a_late_answer_is_nobody_s_repeat() -> None:
    """What was taken when the daemon may have given up waiting comes again, and that is right."""
    ledger, facts = _history()
    taken = next(request for request in ledger.requests if request.pair == (1, 2))
    ledger.requests[ledger.requests.index(taken)] = replace(taken, late=True)
    _repeat(ledger, facts)
    assert check(ledger, facts, TERMS) == []
