"""The scenarios there are, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bisd.bench.figures import Row
from bisd.bench.rig import Rig
from bisd.bench.scenarios.behind import dead, history, pinned
from bisd.bench.scenarios.fleet import fleet
from bisd.bench.scenarios.idle import idle
from bisd.bench.scenarios.insert import insert
from bisd.bench.scenarios.open_loop import hostile, latency, pages, soak
from bisd.bench.scenarios.throughput import cold, drain, slow


@dataclass(frozen=True, slots=True)
class Scenario:
    """`minutes`: how long it takes at scale 1 and with three rounds, on two cores."""

    run: Callable[[Rig], Awaitable[list[Row]]]
    minutes: float

    @property
    def about(self) -> str:
        return " ".join((self.run.__doc__ or "").split())


SCENARIOS = {
    "drain": Scenario(drain, 2),
    "latency": Scenario(latency, 4),
    "insert": Scenario(insert, 3),
    "hostile": Scenario(hostile, 5),
    "dead": Scenario(dead, 2),
    "history": Scenario(history, 3),
    "pinned": Scenario(pinned, 2),
    "slow": Scenario(slow, 2),
    "cold": Scenario(cold, 1),
    "fleet": Scenario(fleet, 2),
    "idle": Scenario(idle, 3),
    "pages": Scenario(pages, 3),
    "soak": Scenario(soak, 5),
}
