"""The fleet: which shards are ours. Told by advisory locks of one session, so that PostgreSQL itself frees what a dead
daemon held. Each member keeps its share, ceil(64 / members), and lets the rest go once nothing of it is busy."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from bisd import db
from bisd.model import SHARDS


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

    async def join(self) -> None:
        await self._connection.execute(db.query("join_fleet"))

    async def tend(self) -> Tending:
        """Counts the members, takes what is free up to our share, and names what is beyond it."""
        row = await self._connection.fetchrow(db.query("fleet"))
        assert row is not None
        self.members = max(1, row["members"])
        share = -(-SHARDS // self.members)
        wanted = share - len(self.held)
        taken: frozenset[int] = frozenset()
        if wanted > 0 and row["free"]:
            # In any order, so that several who come at once do not all try the same.
            free = random.sample(row["free"], min(wanted, len(row["free"])))
            taken = frozenset(record["shard"] for record in await self._connection.fetch(db.query("take_shards"), free))
            self.held |= taken
        surplus = frozenset(sorted(self.held)[share:])
        return Tending(taken, surplus)

    async def release(self, shards: Iterable[int]) -> None:
        """Lets go of shards in which nothing is busy any more."""
        going = sorted(shards)
        await self._connection.execute(db.query("release_shards"), going)
        self.held -= frozenset(going)


def mask(shards: Iterable[int]) -> int:
    """Shards as the signed 64-bit number that SQL takes: bit n for shard n."""
    bits = sum(1 << shard for shard in shards)
    return bits - (1 << SHARDS) if bits >> (SHARDS - 1) else bits
