"""bisd, with a trap: where it comes by a named point for the n-th time, it dies as by kill -9. It knows nothing of that itself:
`python -m tests.torture.trap POINT N SEED`, or without the three, and then what `bisd` takes. What it sends says who sent it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from bisd import cli, worker
from bisd.delivery.arrival import Arrival
from bisd.delivery.message import compose
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.delivery.writeback import Writeback
from bisd.fleet import Fleet
from bisd.housekeeping import Housekeeping
from bisd.intake import Session
from bisd.lanes import Lanes
from bisd.model import Delivery, Message, Webhook
from bisd.service import Service

SENDER = "X-Sender"


class Point(NamedTuple):
    """`owner`.`name` is what is passed; `when`: before it, after it, or some time into it (`amid`: at most so many seconds).
    `passes`: it snaps at one of so many. `armed`: from the beginning, and not only when SIGUSR1 comes."""

    owner: Any
    name: str
    when: str
    passes: int
    amid: float = 0.0
    armed: bool = False


# In the order of the path, from the start to the end.
POINTS = {
    "start": Point(Service, "_require_schema", "after", 1, armed=True),
    "listen": Point(Session, "begin", "amid", 1, 0.02, armed=True),
    "first look": Point(Session, "begin", "after", 1, armed=True),
    "shards wanted": Point(Fleet, "tend", "amid", 2, 0.004, armed=True),
    "shards taken": Point(Fleet, "tend", "after", 3, armed=True),
    "shards opened": Point(Session, "_open_shards", "amid", 2, 0.01, armed=True),
    "shards released": Point(Fleet, "release", "after", 1),
    "look": Point(Arrival, "look", "before", 80),
    "look under way": Point(Arrival, "look", "amid", 80, 0.002),
    "arrived": Point(Arrival, "look", "after", 80),
    "refill": Point(Session, "_refill", "amid", 80, 0.002),
    "turn": Point(Lanes, "next", "after", 80),
    "composed": Point(worker, "compose", "after", 80),
    "post": Point(Post, "send", "before", 80),
    "post under way": Point(Post, "send", "amid", 80, 0.02),
    "answered": Point(Post, "send", "after", 80),
    "judged": Point(Policy, "judge", "after", 80),
    "to be written": Point(Writeback, "add", "after", 80),
    "finished": Point(Lanes, "finish", "after", 80),
    "write-back": Point(Writeback, "_settle", "before", 20),
    "write-back under way": Point(Writeback, "_settle", "amid", 20, 0.006),
    "written": Point(Service, "_written", "before", 20),
    "told": Point(Service, "_written", "after", 20),
    "report": Point(Writeback, "_tell", "amid", 3, 0.003),
    "partitions": Point(Housekeeping, "_keep", "amid", 1, 0.02, armed=True),
    "stopping": Point(Service, "_shut_down", "before", 1),
    "draining": Point(Service, "_shut_down", "amid", 1, 0.3),
    "drained": Point(Writeback, "drained", "after", 1),
    # Of commands: one statement after the other.
    "statement": Point(asyncpg.Connection, "execute", "before", 30, armed=True),
    "statement under way": Point(asyncpg.Connection, "execute", "amid", 30, 0.02, armed=True),
    "statement answered": Point(asyncpg.Connection, "execute", "after", 30, armed=True),
    "question": Point(asyncpg.Connection, "fetch", "before", 8, armed=True),
    "question under way": Point(asyncpg.Connection, "fetch", "amid", 8, 0.01, armed=True),
    "question answered": Point(asyncpg.Connection, "fetch", "after", 8, armed=True),
}
# Passed only by a daemon that is told to stop; and only by commands.
ENDING = ("stopping", "draining", "drained")
COMMANDS = tuple(name for name, point in POINTS.items() if point.owner is asyncpg.Connection)


def set_trap(point: Point, passes: int, rng: random.Random) -> None:
    """Raises AttributeError where the point is no more."""
    left = [passes]
    armed = [point.armed]
    function = getattr(point.owner, point.name)
    signal.signal(signal.SIGUSR1, lambda *_: armed.append(True))

    def snap() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def passed(when: str) -> None:
        if point.when == when and armed[-1]:
            left[0] -= 1
            if left[0] <= 0 and when == "amid":
                asyncio.get_running_loop().call_later(rng.uniform(0, point.amid), snap)
            elif left[0] <= 0:
                snap()

    setattr(point.owner, point.name, _wrapped(function, passed))


def _wrapped(function: Callable[..., Any], passed: Callable[[str], None]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        def trapped(*arguments: Any, **named: Any) -> Any:
            passed("before")
            answer = function(*arguments, **named)
            passed("after")
            return answer

        return trapped

    @functools.wraps(function)
    async def trapped_there(*arguments: Any, **named: Any) -> Any:
        passed("before")
        passed("amid")
        answer = await function(*arguments, **named)
        passed("after")
        return answer

    return trapped_there


def sign_messages() -> None:
    """Each request has one header more: the process that it comes from."""

    def signed(webhook: Webhook, delivery: Delivery, now: datetime) -> Message:
        message = compose(webhook, delivery, now)
        message.headers[SENDER] = str(os.getpid())
        return message

    setattr(worker, "compose", signed)  # noqa: B010  (the module does not export it)


if __name__ == "__main__":
    sign_messages()
    if sys.argv[1] in POINTS:
        point, passes, seed = sys.argv[1:4]
        del sys.argv[1:4]
        set_trap(POINTS[point], int(passes), random.Random(seed))
    cli.main()
