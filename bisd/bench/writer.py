"""One writer of the application, in a closed loop: as many inserts as it can, a transaction each.

    python -m bisd.bench.writer '{"dsn": ..., "statement": ..., "seconds": ...}'

Says "ready", begins at the first line of its standard input, and prints how many it made and the seconds that it took, as JSON.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

import asyncpg
import uvloop


async def write(dsn: str, statement: str, seconds: float) -> tuple[int, float]:
    connection = await asyncpg.connect(dsn)
    insert = await connection.prepare(statement)
    await insert.fetchval(1)
    print("ready", flush=True)
    sys.stdin.readline()
    began = perf_counter()
    made = 0
    while perf_counter() - began < seconds:
        await insert.fetchval(1)
        made += 1
    took = perf_counter() - began
    await connection.close()
    return made, took


if __name__ == "__main__":
    print(json.dumps(uvloop.run(write(**json.loads(sys.argv[1])))))
