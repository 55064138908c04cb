"""bisd keys ..."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import Progress

from bisd import db, insight, sealing
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.config import Config
from bisd.errors import KeysLeftError
from bisd.keyring import Keyring

_NAMED = 20


@click.group()
def keys() -> None:
    """API keys at rest, and the master key that seals them."""


@keys.command()
@json_option
@with_config
def seal(config: Config, as_json: bool) -> None:
    """Seals every API key by the current master key; may be interrupted and run again."""
    keyring = Keyring(config.keys)
    current = keyring.require_master()

    async def act(connection: db.Connection) -> sealing.Sealing:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            counts = await insight.keys(connection) if console.is_terminal else {}
            task = bar.add_task("Sealing", total=sum(counts.values()) - counts.get(current, 0))
            return await sealing.seal_accounts(connection, keyring, lambda number: bar.advance(task, number))

    done = ask(config, act)
    if as_json:
        show_json({"sealed": done.keys, "key_id": current, "unreadable": done.unreadable})
    else:
        click.echo(f"Sealed {done.keys} API keys under master key {current}.")
    if done.unreadable:
        named = ", ".join(map(str, done.unreadable[:_NAMED])) + (", ..." if done.unreadable[_NAMED:] else "")
        raise KeysLeftError(count=len(done.unreadable), accounts=named)


@keys.command()
@json_option
@with_config
def status(config: Config, as_json: bool) -> None:
    """Shows how many API keys are in plain, and how many are sealed under which master key."""
    keyring = Keyring(config.keys)
    show_rows([asdict(count) for count in keyring.census(ask(config, insight.keys))], as_json, "")
