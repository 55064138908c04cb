"""bisd status"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import click

from bisd import insight
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.config import Config

_EVERY = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Again every two seconds, until interrupted.")
@json_option
@with_config
def status(config: Config, watch: bool, as_json: bool) -> None:
    """Daemons, shards, backlog and webhooks that fail, at a glance; from the database alone."""
    while True:
        seen = ask(config, insight.status)
        if as_json:
            show_json(seen)
        else:
            if watch:
                click.clear()
            _show(seen)
        if not watch:
            return
        time.sleep(_EVERY)


def _show(seen: dict[str, Any]) -> None:
    daemons = [
        {
            "daemon": one["name"] or "not to be seen",
            "since": one["since"],
            "shards": len(one["shards"]),
            "which": spans(one["shards"]),
        }
        for one in seen["daemons"]
    ]
    show_rows(daemons, False, "No daemon runs: bisd run")
    if seen["daemons"] and seen["unowned"]:
        click.echo(f"Shards that nobody owns: {spans(seen['unowned'])}. What they are owed waits.")
    backlog = seen["backlog"]
    about, due_since = "" if backlog["exact"] else "about ", backlog["due_since"]
    waiting = "none is due" if due_since is None else f"the oldest due for {_seconds(due_since):,.0f} s"
    owed = f"{about}{backlog['owed']:,} to {backlog['webhooks']:,} webhooks; {waiting}" if backlog["owed"] else "nothing"
    click.echo(f"Owed: {owed}.")
    states = ", ".join(f"{number:,} {state}" for state, number in seen["webhooks"].items())
    click.echo(f"Webhooks: {states or 'none'}.")
    if seen["failing"]:
        show_rows(seen["failing"], False, "")


def _seconds(since: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - since).total_seconds())


def spans(shards: Sequence[int]) -> str:
    """0-3, 7: numbers in ascending order, as a person would write them."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(shards), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
