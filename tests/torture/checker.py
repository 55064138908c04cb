"""The checker: the ledger and the database, held against each other. Pure.

Every rule yields a sentence for each thing that breaks it, and nothing where all is well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.torture.facts import Facts
from tests.torture.ledger import Fault, Happening, Ledger, Pair, Request


@dataclass(frozen=True)
class Terms:
    """What was agreed. `subscriptions`: account and topic of each webhook; `constant`: those that were switched on all the
    time; `ordered`: those to be sent to in the order of event ids; `max_attempts` and `timeout` (seconds) as the daemons are
    configured."""

    subscriptions: dict[int, tuple[int, str]]
    constant: frozenset[int]
    ordered: frozenset[int]
    max_attempts: int
    timeout: float


def check(ledger: Ledger, facts: Facts, terms: Terms) -> list[str]:
    """What is wrong. Counts the repeats of each fault."""
    pairs = ledger.by_pair()
    return [
        *_events(ledger, facts),
        *_fan_out(ledger, facts, terms),
        *_ends(pairs, facts, terms),
        *_bodies(ledger, facts),
        *_repeats(pairs, ledger, terms),
        *_at_once(pairs, ledger, terms),
        *_records(pairs, ledger, facts, terms),
        *_order(pairs, facts, terms),
    ]


def _events(ledger: Ledger, facts: Facts) -> Iterator[str]:
    """What was committed happened once, what was taken back did not."""
    happened: Counter[Happening] = Counter((event.number, event.topic) for event in facts.events.values())
    for happening in ledger.committed:
        if happened[happening] != 1:
            yield f"{happening} was committed, and is {happened[happening]} events"
    for happening in ledger.undone:
        if happened[happening]:
            yield f"{happening} was taken back, and is an event"
    for happening, number in happened.items():
        if number > 1:
            yield f"{happening} is {number} events"


def _fan_out(ledger: Ledger, facts: Facts, terms: Terms) -> Iterator[str]:
    """Each event is owed to every webhook of its topic that was switched on; and what a transaction saw to be owed stays."""
    for event_id, event in facts.events.items():
        for webhook_id in terms.constant:
            if (
                terms.subscriptions[webhook_id] == (event.account_id, event.topic)
                and (webhook_id, event_id) not in facts.states
            ):
                yield f"lost: event {event_id} is not owed to webhook {webhook_id}, and never was"
    for pair in ledger.owed.keys() - facts.states.keys():
        yield f"lost: {pair} was owed, and is gone without a trace"


def _ends(pairs: dict[Pair, list[Request]], facts: Facts, terms: Terms) -> Iterator[str]:
    """Each delivery has one end, and the ledger bears it out."""
    for pair, states in facts.states.items():
        if len(states) != 1:
            yield f"{pair} has {len(states)} states: {states}"
        state, attempts = states[0]
        taken = any(request.taken and request.verified for request in pairs.get(pair, []))
        match state:
            case "delivered" if not taken:
                yield f"lost: {pair} is delivered, they say, and no receiver took it"
            case "failed" if attempts < terms.max_attempts:
                yield f"lost: {pair} was given up after {attempts} attempts"
            case "cancelled" if pair[0] in terms.constant:
                yield f"lost: {pair} is cancelled, and nobody asked for it"
            case "delivered" | "failed" | "cancelled":
                pass
            case _:
                yield f"{pair} is {state} still, after {attempts} attempts"


def _bodies(ledger: Ledger, facts: Facts) -> Iterator[str]:
    """What was sent is what happened, to the byte, under a signature that holds."""
    for request in ledger.requests:
        event = facts.events.get(request.pair[1])
        if event is None:
            yield f"{request.pair} was sent, and there is no such event"
        elif event.digest != request.digest:
            yield f"{request.pair} was sent with other bytes than the event has"
        if not request.verified:
            yield f"{request.pair} was sent with a signature that does not hold"


def _repeats(pairs: dict[Pair, list[Request]], ledger: Ledger, terms: Terms) -> Iterator[str]:
    """What was taken comes again only if a fault can have kept the outcome from being written."""
    for pair, requests in pairs.items():
        taken: Request | None = None
        for request in requests:
            if taken is not None:
                fault = _fault(ledger, taken, taken.answered_at)
                if fault is None:
                    yield f"repeated: {pair} was taken at {taken.at:.3f} and sent again at {request.at:.3f}, without a fault"
                else:
                    fault.repeats += 1
            if request.taken and not request.late:
                taken = request


def _at_once(pairs: dict[Pair, list[Request]], ledger: Ledger, terms: Terms) -> Iterator[str]:
    """No delivery is under way twice, but where a fault has left its sender alone with it."""
    for pair, requests in pairs.items():
        for first, second in pairwise(requests):
            together = second.at < min(first.answered_at or second.at, first.at + terms.timeout)
            if together and _fault(ledger, first, second.at) is None:
                yield f"{pair} was under way twice at {second.at:.3f}, without a fault"


def _records(pairs: dict[Pair, list[Request]], ledger: Ledger, facts: Facts, terms: Terms) -> Iterator[str]:
    """Each request has its attempt, but for those that a fault has cut; each attempt that was answered has its request."""
    for pair in pairs.keys() | facts.attempts.keys():
        recorded: Counter[int] = Counter()
        for attempt in facts.attempts.get(pair, []):
            if attempt.number is not None:
                recorded[int(attempt.at)] += 1 + attempt.resent
        came = Counter(request.stamp for request in pairs.get(pair, []))
        for attempt in facts.attempts.get(pair, []):
            if attempt.status is not None and not came[int(attempt.at)]:
                yield f"{pair} was answered {attempt.status} at {attempt.at:.3f}, they say, and no receiver was asked"
        for stamp, number in came.items():
            if number <= recorded[stamp]:
                continue
            cut = [r for r in pairs[pair] if r.stamp == stamp and _fault(ledger, r, r.answered_at or r.at + terms.timeout)]
            if number - recorded[stamp] > len(cut):
                moments = [(round(r.at, 3), r.status) for r in pairs[pair] if r.stamp == stamp]
                yield f"{pair} was sent in second {stamp}, at {moments}, and {recorded[stamp]} attempts are recorded"


def _order(pairs: dict[Pair, list[Request]], facts: Facts, terms: Terms) -> Iterator[str]:
    """An ordered webhook takes each event after the one before it, or after that was given up."""
    for webhook_id in terms.ordered:
        firsts = [
            (event_id, min(request.at for request in pairs.get((webhook_id, event_id), []) if request.taken))
            for (owner, event_id), states in sorted(facts.states.items())
            if owner == webhook_id and states[0].state == "delivered"
            and any(request.taken for request in pairs.get((webhook_id, event_id), []))
        ]  # fmt: skip
        for (before, one), (after, other) in pairwise(firsts):
            if other < one:
                yield f"webhook {webhook_id} took event {after} before event {before}"


def _fault(ledger: Ledger, request: Request, until: float) -> Fault | None:
    """One that may have cut what came of a request, from when it came until then; the latest."""
    return next((fault for fault in reversed(ledger.faults) if fault.explains(request.sender, request.at, until)), None)
