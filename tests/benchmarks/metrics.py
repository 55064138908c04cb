"""What counting costs: CPU per delivery, by the size of the write-back's batch, and of one scrape.

python tests/benchmarks/metrics.py [--rounds N]
"""

from __future__ import annotations

import argparse
import random
import timeit
from datetime import UTC, datetime, timedelta
from time import process_time

from prometheus_client import generate_latest

from bisd.metrics import Metrics
from bisd.model import Delivered, Delivery, Outcome, Response, Timings

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_DELIVERIES = 5000


def outcome(number: int) -> Outcome:
    """Of a delivery that was taken, on a connection that was open."""
    delivery = Delivery(number % 20, number, _NOW, _NOW, _NOW, 0, "notification/create", b"{}", 2)
    took = random.uniform(1, 20)
    answer = Response(200, None, b"", Timings(None, None, None, took, took + 0.1))
    return Outcome(delivery, _NOW + timedelta(milliseconds=random.uniform(0, 20)), answer, Delivered())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    metrics = Metrics()
    for size in (1, 10, 100, 500):
        batch = [outcome(number) for number in range(size)]
        times = _DELIVERIES // size

        def count(batch: list[Outcome] = batch) -> None:
            metrics.written(batch, set(), 0.002)

        best = min(timeit.repeat(count, number=times, repeat=rounds, timer=process_time))
        print(f"batches of {size:3}: {best / times / size * 1e6:5.2f} us a delivery, {best / times * 1e6:6.1f} us a batch")
    best = min(timeit.repeat(lambda: generate_latest(metrics.registry), number=10, repeat=rounds, timer=process_time)) / 10
    print(f"a scrape, without the gauges of lanes: {best * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
