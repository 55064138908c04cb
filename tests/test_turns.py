"""Turns: nobody waits for long behind others, however many webhooks or deliveries they have, and however long their bodies."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bisd.turns import Share, Turns

TURN = 1 << 14


@dataclass
class Line:
    """A lane that always has something to send, of so many octets."""

    share: Share[Line]
    account: int
    octets: int


def serve(bodies: list[list[int]], turns: int) -> list[Line]:
    """Whose turns they are, where every account has these lanes, each with bodies of so many octets."""
    line = Turns[Line]()
    for account, lanes in enumerate(bodies):
        share = line.share(account)
        for octets in lanes:
            line.add(Line(share, account, octets), share)
    served = []
    for _ in range(turns):
        lane = line.take()
        line.charge(lane.share, lane.octets)
        line.add(lane, lane.share)
        served.append(lane)
    return served


accounts = st.lists(st.lists(st.integers(0, 20 * TURN), min_size=1, max_size=6), min_size=1, max_size=8)


@given(accounts)
def test_each_account_gets_its_part(bodies: list[list[int]]) -> None:
    """Counted in turns, a body of many octets being several: no two accounts are ever further apart than one body is worth,
    and the turn that goes round."""
    spent = Counter(dict.fromkeys(range(len(bodies)), 0))
    worth = 1 + max(octets // TURN for lanes in bodies for octets in lanes)
    for lane in serve(bodies, 400):
        spent[lane.account] += 1 + lane.octets // TURN
        assert max(spent.values()) - min(spent.values()) <= worth + 1


@given(accounts, st.integers(1, 400))
def test_lanes_of_an_account_take_turns(bodies: list[list[int]], turns: int) -> None:
    """One each, whatever the octets."""
    served = serve(bodies, turns)
    for account, lanes in enumerate(bodies):
        own = Counter(id(lane) for lane in served if lane.account == account)
        assert max(own.values(), default=0) <= -(-own.total() // len(lanes))


@given(st.integers(1, 200), st.integers(1, 20))
def test_a_small_merchant_goes_next(many: int, few: int) -> None:
    """Whatever another one has in line: of two accounts, every second turn is the small one's."""
    served = serve([[0] * many, [0] * few], 50)
    assert [25, 25] == [sum(lane.account == account for lane in served) for account in (0, 1)]


def test_alone_nobody_waits() -> None:
    """With nobody to let pass, a debt costs nothing."""
    assert 100 == len(serve([[20 * TURN]], 100))


def test_what_was_sent_alone_is_held_against_nobody() -> None:
    """However much that was: who was alone has a turn again once others have had what its last body was worth."""
    line = Turns[str]()
    first, second = line.share(1), line.share(2)
    for _ in range(1000):
        line.add("first", first)
        assert "first" == line.take()
        line.charge(first, 20 * TURN)
    line.add("first", first)
    for turn in range(21):
        line.add("second", second)
        assert ("second" if turn < 20 else "first") == line.take()


@given(st.lists(st.sampled_from(["add", "take"]), max_size=60))
def test_whoever_is_in_line_has_a_turn(steps: list[str]) -> None:
    """And nobody else: true while somebody is."""
    line, waiting = Turns[int](), deque[int]()
    share = line.share(1)
    for number, step in enumerate(steps):
        if step == "add":
            line.add(number, share)
            waiting.append(number)
        elif waiting:
            assert waiting.popleft() == line.take()
        assert bool(waiting) == bool(line)
