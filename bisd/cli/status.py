"""bisd status"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import groupby
from typing import Any, TypeAlias

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bisd import db, insight, migrate
from bisd.cli.context import ask, connected, with_config
from bisd.cli.output import json_option, show, show_json, tabulate
from bisd.config import Config
from bisd.errors import ServerUnfitError

_EVERY = 2.0
_PATIENCE = 5.0

_LOST: tuple[type[BaseException], ...] = (ServerUnfitError, *db.ANY)

Seen: TypeAlias = dict[str, Any]
# What was seen last, if anything was; and why nothing was this time.
Show: TypeAlias = Callable[[Seen | None, str | None], None]


@click.command()
@click.option("--watch", is_flag=True, help="Again every two seconds, until interrupted.")
@json_option
@with_config
def status(config: Config, watch: bool, as_json: bool) -> None:
    """Daemons, shards, backlog, the last minute and webhooks that fail, at a glance; from the database alone."""
    if not watch:
        seen = ask(config, insight.status)
        if as_json:
            show_json(seen)
        else:
            show(_screen(seen, None))
        return
    with suppress(KeyboardInterrupt), _showing(as_json) as shown:
        asyncio.run(_watch(db.resolve_dsn(config.database), shown))


async def _watch(dsn: str, shown: Show) -> None:
    """Until cancelled. While the database is away, what was seen last stays, and it is said that it is old."""
    connection: db.Connection | None = None
    seen: Seen | None = None
    try:
        while True:
            try:
                async with asyncio.timeout(_PATIENCE):
                    if connection is None:
                        connection = await connected(dsn)
                        await migrate.require_current(connection)
                    seen = await insight.status(connection)
                shown(seen, None)
            except _LOST as lost:
                shown(seen, type(lost.__context__ or lost).__name__)
                if connection is not None:
                    connection.terminate()
                    connection = None
            await asyncio.sleep(_EVERY)
    finally:
        if connection is not None:
            connection.terminate()


@contextmanager
def _showing(as_json: bool) -> Iterator[Show]:
    """On a screen of its own, which is redrawn at once and goes when it ends; lines, where no terminal is."""
    console = Console(highlight=False)
    if as_json or not console.is_terminal:
        yield _tell_json if as_json else lambda seen, lost: show(_screen(seen, lost))
        return
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda seen, lost: live.update(_screen(seen, lost), refresh=True)


def _tell_json(seen: Seen | None, lost: str | None) -> None:
    if lost is not None:
        click.echo(_away(lost), err=True)
    elif seen is not None:
        show_json(seen)


def _away(lost: str) -> str:
    return f"The database does not answer ({lost}); it is asked again."


def _screen(seen: Seen | None, lost: str | None) -> RenderableType:
    parts: list[RenderableType] = [] if lost is None else [Text(_away(lost), style="bold red")]
    if seen is not None:
        if lost is not None:
            parts.append(Text(f"What follows was seen at {seen['at']:%H:%M:%S} UTC."))
        parts += _parts(seen)
    return Group(*parts)


def _parts(seen: Seen) -> Iterator[RenderableType]:
    if seen["daemons"]:
        yield tabulate([_daemon(one) for one in seen["daemons"]])
    else:
        yield Text("No daemon runs: bisd run")
    if seen["daemons"] and seen["unowned"]:
        yield Text(f"Shards that nobody owns: {spans(seen['unowned'])}. What they are owed waits.")
    yield Text(f"Owed: {_owed(seen['backlog'], seen['at'])}.")
    yield Text(f"{_recent(seen['recent'])}.")
    states = ", ".join(f"{number:,} {state}" for state, number in seen["webhooks"].items())
    yield Text(f"Webhooks: {states or 'none'}.")
    if seen["failing"]:
        yield tabulate(seen["failing"])


def _daemon(one: dict[str, Any]) -> dict[str, object]:
    shards = one["shards"]
    return {"daemon": one["name"] or "not to be seen", "since": one["since"], "shards": len(shards), "which": spans(shards)}


def _owed(backlog: dict[str, Any], at: datetime) -> str:
    if not backlog["owed"]:
        return "nothing"
    about, due_since = "" if backlog["exact"] else "about ", backlog["due_since"]
    waiting = "none is due" if due_since is None else f"the oldest due for {max(0.0, (at - due_since).total_seconds()):,.0f} s"
    return f"{about}{backlog['owed']:,} to {backlog['webhooks']:,} webhooks; {waiting}"


def _recent(recent: dict[str, Any]) -> str:
    seconds = recent["seconds"]
    rate = recent["delivered"] / seconds if seconds else 0.0
    return f"Last {seconds:.0f} s: {recent['delivered']:,} delivered ({rate:,.0f}/s), {recent['failed']:,} attempts failed"


def spans(shards: Sequence[int]) -> str:
    """0-3, 7: numbers in ascending order, as a person would write them."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(shards), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
