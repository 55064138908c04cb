"""Somebody looks: has a page open that is live, and reads others, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from time import perf_counter

import aiohttp

from bisd.bench.cluster import require

# What the benchmark's daemon is given as the operator's token.
TOKEN = "be" * 32
_ORIGIN = "http://localhost"


@asynccontextmanager
async def reading(face: Path, paths: Sequence[str], every: float) -> AsyncIterator[list[float]]:
    """While the block runs: logs in at the daemon's socket, keeps a live page open, and reads the next of these every so many
    seconds. Answers how long each took, in seconds; it is complete when the block has ended.

    Raises BenchFailedError if a page is not shown."""
    took: list[float] = []
    connector = aiohttp.UnixConnector(str(face))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        session.headers["Cookie"] = await _log_in(session)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_watch(session)), group.create_task(_read(session, paths, every, took))]
            try:
                yield took
            finally:
                for task in tasks:
                    task.cancel()


async def _log_in(session: aiohttp.ClientSession) -> str:
    async with session.post(f"{_ORIGIN}/login", data={"token": TOKEN}, allow_redirects=False) as answer:
        require(answer.status == 303, f"the daemon lets nobody in: {answer.status}")
        return "; ".join(f"{name}={morsel.value}" for name, morsel in answer.cookies.items())


async def _watch(session: aiohttp.ClientSession) -> None:
    async with session.get(f"{_ORIGIN}/live", timeout=aiohttp.ClientTimeout(total=None)) as answer:
        require(answer.status == 200, f"no page is live: {answer.status}")
        async for _ in answer.content:
            pass


async def _read(session: aiohttp.ClientSession, paths: Sequence[str], every: float, took: list[float]) -> None:
    for path in cycle(paths):
        began = perf_counter()
        async with session.get(f"{_ORIGIN}{path}", allow_redirects=False) as answer:
            require(answer.status == 200 and await answer.read() != b"", f"{path} is not shown: {answer.status}")
        took.append(perf_counter() - began)
        await asyncio.sleep(max(0.0, every - took[-1]))
