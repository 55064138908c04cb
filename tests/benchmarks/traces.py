"""What traces cost: nothing that matters where there are none.

    python -m tests.benchmarks.traces [--rounds N]

Turn and turn about in one run: rows of a look made into requests, with and without the column `traceparent`, and the same with
a span for each; then the application's inserts, on an embedded PostgreSQL, with the column's default and without. Prints
microseconds each, and the medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import asyncpg
from opentelemetry.sdk.trace import TracerProvider

from bisd.bench.ceiling import BODY
from bisd.delivery.message import compose
from bisd.model import Delivered, Delivery, Response, Timings, Webhook
from bisd.traces import Traces
from tests.support.postgres import Server

_MESSAGES, _ROWS = 20_000, 2_000
_NOW = datetime.now(UTC)
_WEBHOOK = Webhook(1, 1, "https://teas.example.com/hooks", "k" * 64, None, None, None, True)
_ROW = (1, 7, _NOW, _NOW, _NOW, 0, "notification/create", BODY, len(BODY), False)
_GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"
_ANSWER = Response(200, None, b"", Timings(None, None, None, 1.0, 1.0))
_INSERT = "insert into bisd.event (account_id, topic, body) values (1, 'order/paid', '{}')"


def composed(row: tuple[object, ...], traces: Traces | None) -> float:
    """Microseconds of CPU per request, from the row to its headers."""
    began = time.process_time()
    for _ in range(_MESSAGES):
        delivery = Delivery(*row)  # type: ignore[arg-type]
        span = None
        message = compose(_WEBHOOK, delivery, _NOW)
        if traces is not None:
            span = traces.begin(message, delivery)
        if span is not None:
            span.end(_ANSWER, Delivered())
    return (time.process_time() - began) / _MESSAGES * 1e6


async def inserted(connection: asyncpg.Connection[asyncpg.Record], default: str) -> float:
    """Microseconds per insert of one row, in one transaction; rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"alter table bisd.event alter traceparent {default}")
    statement = await connection.prepare(_INSERT)
    began = time.perf_counter()
    for _ in range(_ROWS):
        await statement.fetch()
    took = time.perf_counter() - began
    await transaction.rollback()
    return took / _ROWS * 1e6


def compare(name: str, rounds: int, one: Callable[[], float], other: Callable[[], float]) -> None:
    one(), other()  # to warm up
    pairs = [(one(), other()) for _ in range(rounds)]
    _tell(name, pairs)


def _tell(name: str, pairs: list[tuple[float, float]]) -> None:
    ratio = statistics.median(one / other for one, other in pairs)
    with_it, without = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"{name:<46} {with_it:6.2f} us, without {without:6.2f} us, ratio {ratio:.3f}")


async def inserts(dsn: str, rounds: int) -> None:
    connection = await asyncpg.connect(dsn)
    default = await connection.fetchval(
        "select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = 'bisd.event'::regclass "
        "and adnum = (select attnum from pg_attribute where attrelid = 'bisd.event'::regclass and attname = 'traceparent')"
    )
    pairs = []
    for _ in range(rounds):
        pairs.append((await inserted(connection, f"set default {default}"), await inserted(connection, "drop default")))
    _tell("an insert of the application, no trace given", pairs)
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    traces = Traces(TracerProvider())
    compare("a request, no trace given", rounds, lambda: composed((*_ROW, None), None), lambda: composed(_ROW, None))
    compare("a request, a trace given", rounds, lambda: composed((*_ROW, _GIVEN), None), lambda: composed(_ROW, None))
    compare("a request and its span", rounds, lambda: composed((*_ROW, _GIVEN), traces), lambda: composed(_ROW, None))
    server = Server()
    try:
        asyncio.run(inserts(asyncio.run(server.create()), rounds))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
