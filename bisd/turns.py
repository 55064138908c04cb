"""Turns: which lane is next. Pure and synchronous.

Accounts take turns, and an account's lanes take turns within its own: who has a thousand webhooks, or a hundred thousand
deliveries, goes as often as who has one. What is long counts for more: after a body of many octets the account lets others
pass for as many turns as it was worth (deficit round robin, Shreedhar and Varghese 1995, the deficit taken afterwards).
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

Lane = TypeVar("Lane")

# So many octets of a body are worth a turn more, as a power of two.
_TURN = 14


class Share(Generic[Lane]):
    """One account's: those of its lanes that are in line, and how many turns it is to let pass."""

    __slots__ = ("lanes", "debt", "__weakref__")

    def __init__(self) -> None:
        self.lanes: deque[Lane] = deque()
        self.debt = 0


class Turns(Generic[Lane]):
    """A circle of accounts, and in each a circle of lanes. True while there is a lane in line."""

    def __init__(self) -> None:
        self._circle: deque[Share[Lane]] = deque()
        self._shares: WeakValueDictionary[int, Share[Lane]] = WeakValueDictionary()

    def __bool__(self) -> bool:
        return bool(self._circle)

    def share(self, account_id: int) -> Share[Lane]:
        """Of the account that a lane belongs to: the lane keeps it."""
        share = self._shares.get(account_id)
        if share is None:
            share = self._shares[account_id] = Share()
        return share

    def add(self, lane: Lane, share: Share[Lane]) -> None:
        """Puts a lane in line, at the end of its account's."""
        if not share.lanes:
            self._circle.append(share)
        share.lanes.append(lane)

    def take(self) -> Lane:
        """Takes the next lane out of the line. Raises IndexError if there is none."""
        circle = self._circle
        share = circle.popleft()
        while share.debt and circle:
            share.debt -= 1
            circle.append(share)
            share = circle.popleft()
        if not circle:
            share.debt = 0  # nobody else is in line, so nobody is owed a turn
        lane = share.lanes.popleft()
        if share.lanes:
            circle.append(share)
        return lane

    def charge(self, share: Share[Lane], octets: int) -> None:
        """It has sent a body of so many octets."""
        share.debt += octets >> _TURN
