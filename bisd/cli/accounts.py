"""bisd account ..."""

from __future__ import annotations

from datetime import timedelta

import click

from bisd import control, db, insight
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json, show_record, show_rows
from bisd.cli.values import IDENTIFIER, Duration
from bisd.config import Config
from bisd.keyring import Keyring
from bisd.sealing import seal_account

_KEYS = ("api_key", "previous_api_key")


@click.group()
def account() -> None:
    """Accounts, their plans and keys."""


@account.command()
@click.argument("name")
@click.option("--plan", required=True, help="small, medium, large or enterprise; webhooks come with the last three.")
@json_option
@with_config
def add(config: Config, name: str, plan: str, as_json: bool) -> None:
    """Adds an account and shows its API key, this once."""
    keyring = Keyring(config.keys)

    async def create(connection: db.Connection) -> tuple[int, str]:
        async with connection.transaction():
            created = await control.create_account(connection, name, plan)
            if keyring.has_master:
                await seal_account(connection, keyring, created[0])
        return created

    account_id, api_key = ask(config, create)
    if as_json:
        show_json({"id": account_id, "api_key": api_key})
    else:
        click.echo(f"Account {account_id}. Its API key, which signs its webhooks:", err=True)
        click.echo(api_key)


@account.command("list")
@json_option
@with_config
def list_(config: Config, as_json: bool) -> None:
    """Lists the accounts."""
    show_rows(ask(config, insight.accounts), as_json, "No account yet: bisd account add NAME --plan medium")


@account.command()
@click.argument("id", type=IDENTIFIER)
@click.option("--reveal", is_flag=True, help="Show its API keys too, to its owner.")
@json_option
@with_config
def show(config: Config, id: int, reveal: bool, as_json: bool) -> None:
    """Shows an account."""
    keyring = Keyring(config.keys)
    row = ask(config, lambda connection: insight.account(connection, id))
    for name in _KEYS:
        stored = row.pop(name)
        if reveal and stored is not None:
            row[name] = keyring.open(id, str(stored))
    show_record(row, as_json)


@account.command("rotate-key")
@click.argument("id", type=IDENTIFIER)
@click.option("--overlap", type=Duration(), default="24h", show_default=True, help="How long the old key signs too.")
@json_option
@with_config
def rotate_key(config: Config, id: int, overlap: timedelta, as_json: bool) -> None:
    """Gives an account a new API key and shows it, this once."""
    keyring = Keyring(config.keys)

    async def rotate(connection: db.Connection) -> str:
        async with connection.transaction():
            fresh = await control.rotate_key(connection, id, overlap)
            if keyring.has_master:
                await seal_account(connection, keyring, id)
        return fresh

    api_key = ask(config, rotate)
    if as_json:
        show_json({"id": id, "api_key": api_key})
    else:
        old = f"for {overlap} the one before it signs too" if overlap else "the one before it is void"
        click.echo(f"The new API key of account {id}; {old}:", err=True)
        click.echo(api_key)


@account.command("set-plan")
@click.argument("id", type=IDENTIFIER)
@click.argument("plan")
@with_config
def set_plan(config: Config, id: int, plan: str) -> None:
    """Puts an account on a plan; its webhooks stop or go on at once, as the plan has them."""
    ask(config, lambda connection: control.set_plan(connection, id, plan))
    click.echo(f"Account {id} is on the plan {plan}.")
