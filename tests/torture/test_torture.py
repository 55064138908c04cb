"""A short round of every profile, with fixed seeds: nothing is lost, and nothing is sent again without a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.postgres import Server
from tests.torture.round import PROFILES, Place
from tests.torture.trap import POINTS


@pytest.fixture(scope="module")
def place(authority: trustme.CA, ca_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster of its own, for it will be killed."""
    server = Server()
    yield Place(server, authority, ca_file, tmp_path_factory.mktemp("torture"))
    server.remove()


@pytest.mark.parametrize(
    ("profile", "seed", "trials"),
    [
        ("kills", 1, 5),
        ("databases", 1, 2),
        ("commands", 1, 3),
        pytest.param("quiet", 1, 50, marks=pytest.mark.torture),
        pytest.param("processes", 3, 4, marks=pytest.mark.torture),
        pytest.param("failovers", 1, 1, marks=pytest.mark.torture),
    ],
)
async def test_nothing_is_lost(place: Place, profile: str, seed: int, trials: int) -> None:
    """All that was committed arrives, signed and as it was, or has its end written down; what comes twice was cut by a fault;
    what was sent is recorded; and the daemons are left with nothing. `python -m tests.torture PROFILE --seed N --trials M`
    plays the same round."""
    result = await asyncio.wait_for(PROFILES[profile](place, seed, trials), 110)
    print(f"{result.deliveries} deliveries, {[(fault.name, fault.repeats, fault.recovered) for fault in result.faults]}")
    assert result.wrong == []
    assert len(result.faults) >= trials // 2 or profile == "quiet"
    assert result.deliveries > 100 or profile == "commands"
    assert profile != "quiet" or result.faults == []


@pytest.mark.parametrize("name", POINTS)
def test_every_point_is_there(name: str) -> None:
    """What a trap is set at has not been renamed."""
    assert callable(getattr(POINTS[name].owner, POINTS[name].name))
