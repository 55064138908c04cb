"""Lives through seeds, one or many, and says which of them broke a promise."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from time import monotonic

from tests.simulation.world import Violation, play


def _broken(seed: int, long: bool | None) -> str | None:
    try:
        play(seed, long)
    except Violation as violation:
        return str(violation)
    return None


def _show(seed: int, long: bool | None, trace: bool) -> int:
    events: list[str] = []
    try:
        play(seed, long, events)
        verdict = None
    except Violation as violation:
        verdict = str(violation)
    if trace:
        print("\n".join(events))
    print(f"seed {seed}: {verdict or 'nothing was lost'}")
    return 1 if verdict else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="lives through this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: shows what happens in it")
    parser.add_argument("--seeds", type=int, default=1000, help="so many of them (1000)")
    parser.add_argument("--first", type=int, default=0, help="from this one on (0)")
    parser.add_argument("--processes", type=int, default=1, help="so many at once (1)")
    parser.add_argument(
        "--long", action="store_true", default=None, help="each lasts for 72 hours; otherwise one in sixty does"
    )
    asked = parser.parse_args()
    if asked.seed is not None:
        return _show(asked.seed, asked.long, asked.trace)
    began = monotonic()
    seeds = range(asked.first, asked.first + asked.seeds)
    with ProcessPoolExecutor(asked.processes) as pool:
        verdicts = pool.map(partial(_broken, long=asked.long), seeds, chunksize=20)
        failed = 0
        for seed, verdict in zip(seeds, verdicts, strict=True):
            if verdict is not None:
                failed += 1
                again = f"python -m tests.simulation --seed {seed} --trace{' --long' if asked.long else ''}"
                print(f"seed {seed}: {verdict}\n  {again}")
    took = monotonic() - began
    print(f"{len(seeds)} seeds in {took:.1f} s, {len(seeds) / took * 60:.0f} a minute: {failed} broke a promise")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
