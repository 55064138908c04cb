"""What the guard costs on connections that are kept alive. Uses nginx (Debian: nginx-light) where it is installed.

    python tests/benchmarks/guard.py [--posts N] [--rounds N]

The same Post, as it is and without what it does for our protection (the URL judged, octets and interim answers counted, more
than one answer refused, no connection kept that brought more or has something left to write), turn and turn about in one run.
Prints CPU per POST and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import uvloop
from aiohttp.client_proto import ResponseHandler

from bisd.bench.ceiling import BODY
from bisd.bench.receivers import receiving
from bisd.client import Handler
from bisd.config import Config
from bisd.delivery.post import Post
from bisd.model import Message, Response

_UNGUARDED = {
    "data_received": ResponseHandler.data_received,
    "feed_data": ResponseHandler.feed_data,
    "close": ResponseHandler.close,
    "idle": True,
}
_IN_FLIGHT = 64


@contextmanager
def unguarded(post: Post, url: str) -> Iterator[None]:
    """aiohttp's own methods in place of ours, and the URL not looked up: it was judged before."""
    guards = {name: Handler.__dict__[name] for name in _UNGUARDED}
    judge, judged = post._destination, post._destination(url)
    for name, without in _UNGUARDED.items():
        setattr(Handler, name, without)
    post._destination = lambda _: judged  # type: ignore[assignment]
    try:
        yield
    finally:
        post._destination = judge
        for name, guard in guards.items():
            setattr(Handler, name, guard)


async def cost(post: Post, message: Message, posts: int) -> float:
    """CPU microseconds per POST."""

    async def work() -> None:
        for _ in range(posts // _IN_FLIGHT):
            answer = await post.send(message)
            assert isinstance(answer, Response) and answer.status == 200

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
    return (time.process_time() - began) / posts * 1e6


async def compare(url: str, posts: int, rounds: int, ca_file: Path) -> None:
    default = Config()
    egress = replace(default.egress, allow_http=True, allow=[ip_network("127.0.0.1/32")], ports=[(1, 65535)], ca_file=ca_file)
    headers = {"Content-Type": "application/json", "User-Agent": "bisd", "X-BIS-Signature": "a" * 44, "webhook-id": "evt_1"}
    message = Message(url, headers, BODY)
    with_guard, without = [], []
    async with Post(default.delivery, egress) as post:
        await cost(post, message, posts)
        for _ in range(rounds):
            with_guard.append(await cost(post, message, posts))
            with unguarded(post, url):
                without.append(await cost(post, message, posts))
    ratio = statistics.median(guarded / bare for guarded, bare in zip(with_guard, without, strict=True))
    print(
        f"{url.split(':')[0]:<6} guarded {statistics.median(with_guard):.1f} us, without {statistics.median(without):.1f} us, "
        f"ratio {ratio:.3f}"
    )


async def measure(posts: int, rounds: int, directory: Path) -> None:
    async with receiving(directory) as receivers:
        for scheme in ("http", "https"):
            await compare(receivers.at_once(scheme).format(id=1), posts, rounds, receivers.ca_file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx becomes a user of its own
        uvloop.run(measure(options.posts, options.rounds, directory))


if __name__ == "__main__":
    main()
