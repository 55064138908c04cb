"""The fleet: which shards are ours. Told by advisory locks of one session, so that PostgreSQL itself frees what a dead
daemon held. Each member keeps its share, ceil(64 / members), and lets the rest go once nothing of it is busy.

A daemon that hangs, or whose connection has gone silent without an end, may look alive to the server for ever: its kernel
answers every probe. So the session ends when it has asked nothing for `_SILENCE`, and a member that has stopped reading in
the middle of an answer is ended by the others. Whoever has had no answer for `_SURE` no longer knows that its shards are its
own, and sends nothing until it does: well before anybody else can have them.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from bisd import db, log
from bisd.clock import Clock
from bisd.model import SHARDS, Members

# Seconds. A member looks once a second at least.
_SURE = 4.0
_SILENCE = "8s"
# A member that has taken no answer for so long is ended: longer than the daemon itself waits for one.
UNREAD = timedelta(seconds=10)
# What the server keeps of a name.
_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True)
class Tending:
    """What tending the fleet changed: the shards taken now, and those of ours that are more than our share."""

    taken: frozenset[int]
    surplus: frozenset[int]


class Fleet:
    """One member, on the session that LISTENs: with its connection it loses its shards."""

    def __init__(self, connection: db.Connection) -> None:
        self._connection = connection
        self.held: frozenset[int] = frozenset()
        self.members = 1
        self.left = False

    async def join(self) -> None:
        await self._connection.fetchrow(db.query("join_fleet"), _name(), _SILENCE)

    async def leave(self) -> None:
        """Others no longer count us, and no shard is our share any more."""
        if not self.left:
            self.left = True
            await self._connection.execute(db.query("leave_fleet"))

    async def tend(self, members: Members) -> Tending:
        """Takes what is free up to our share, and names what is beyond it."""
        if members.evicted:
            log.get().warning(log.Event.MEMBER_EVICTED, count=members.evicted)
        self.members = max(1, members.number)
        share = 0 if self.left else -(-SHARDS // self.members)
        wanted = share - len(self.held)
        taken: frozenset[int] = frozenset()
        if wanted > 0 and members.free:
            # In any order, so that several who come at once do not all try the same.
            free = random.sample(members.free, min(wanted, len(members.free)))
            taken = frozenset(record["shard"] for record in await self._connection.fetch(db.query("take_shards"), free))
            self.held |= taken
        surplus = frozenset(sorted(self.held, key=_scattered)[share:])
        return Tending(taken, surplus)

    async def release(self, shards: Iterable[int]) -> None:
        """Lets go of shards in which nothing is busy any more."""
        going = sorted(shards)
        self.held -= frozenset(going)
        await self._connection.execute(db.query("release_shards"), going)


def is_sure(clock: Clock) -> bool:
    """Whether our shards are still ours: the database has answered not long ago, and this process has not been stopped."""
    return clock.silence() < _SURE


def _name() -> str:
    """Where a member runs, as others see it: bisd, process id, host."""
    return f"bisd {os.getpid()} {socket.gethostname()}"[:_NAME_LENGTH]


def _scattered(shard: int) -> int:
    """The shard's bits backwards: neighbours come far apart, and so a shop's few webhooks, whose ids are neighbours, are shared
    among daemons from the first one on."""
    bits = (SHARDS - 1).bit_length()
    return int(f"{shard:0{bits}b}"[::-1], 2)


def mask(shards: Iterable[int]) -> int:
    """Shards as the signed 64-bit number that SQL takes: bit n for shard n."""
    bits = sum(1 << shard for shard in shards)
    return bits - (1 << SHARDS) if bits >> (SHARDS - 1) else bits
