"""The ledger: what the application committed, what merchants were sent, and what was broken when. Nobody asks bisd for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

# A delivery: webhook id, event id. And what happened to a notification: its number, the topic.
Pair = tuple[int, int]
Happening = tuple[int, str]
# Seconds within which, on a machine that is busy with much else, an answer is read and its outcome written.
SLACK = 2.0


@dataclass(slots=True)
class Request:
    """One request as its receiver saw it, whole. `stamp`: the second that it is signed for; `sender`: the daemon's process;
    `status`: what it was answered, None where the line was cut before; `late`: the
    answer came when the daemon may have stopped waiting for it."""

    pair: Pair
    digest: str
    verified: bool
    attempt: int
    stamp: int
    at: float
    sender: int
    status: int | None = None
    answered_at: float = 0.0
    late: bool = False

    @property
    def taken(self) -> bool:
        return self.status == 200


@dataclass(slots=True, eq=False)
class Fault:
    """Something that was broken on purpose.

    `cuts`: what was answered then may not have been written, so that it is sent again: within `slack` seconds before and after,
    by process `pid` (None: by any). `touched`: webhooks by which one can tell when it was over: `recovered` is in how many
    seconds each of them had got something that was committed since it ended. `repeats` is counted by the checker.
    """

    name: str
    cuts: bool
    slack: float = SLACK
    pid: int | None = None
    touched: Sequence[int] = ()
    began: float = field(default_factory=monotonic)
    ended: float | None = None
    recovered: float | None = None
    repeats: int = 0

    def end(self) -> None:
        self.ended = monotonic()

    def explains(self, sender: int, since: float, until: float) -> bool:
        """Whether it may have cut something that was sent by this process between these moments."""
        if not self.cuts or (None not in (self.pid, sender) and self.pid != sender):
            return False
        return self.began - self.slack <= until and since <= (self.ended or monotonic()) + self.slack


@dataclass
class Ledger:
    """`committed`: what is known to have been committed, and when; `doubtful`: what the application was not told the end of;
    `undone`: what it took back. `owed`: what each committed transaction saw in `bisd.delivery` itself."""

    committed: dict[Happening, float] = field(default_factory=dict)
    doubtful: set[Happening] = field(default_factory=set)
    undone: set[Happening] = field(default_factory=set)
    owed: dict[Pair, float] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def strike(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def by_pair(self) -> dict[Pair, list[Request]]:
        """Requests of each delivery, in the order in which they came."""
        pairs: dict[Pair, list[Request]] = {}
        for request in self.requests:
            pairs.setdefault(request.pair, []).append(request)
        return pairs
