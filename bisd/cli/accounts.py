"""bisd account ..."""

from __future__ import annotations

import click

from bisd import control, insight
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.config import Config


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
    account_id, api_key = ask(config, lambda connection: control.create_account(connection, name, plan))
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
