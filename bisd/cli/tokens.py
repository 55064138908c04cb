"""bisd token ..."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from bisd import control, insight
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.cli.values import IDENTIFIER, Duration
from bisd.config import Config


@click.group()
def token() -> None:
    """Tokens of accounts: what their programs send to the API."""


@token.command()
@click.argument("account", type=IDENTIFIER)
@click.option("--description", default="", help="Which program it is for.")
@click.option("--for", "lasting", type=Duration(), help="How long it is good.  [default: until it is revoked]")
@json_option
@with_config
def add(config: Config, account: int, description: str, lasting: timedelta | None, as_json: bool) -> None:
    """Makes a token that opens what is ACCOUNT's and nothing else, and shows it, this once."""
    until = None if lasting is None else datetime.now(UTC) + lasting
    token_id, text = ask(config, lambda connection: control.create_token(connection, account, description, until))
    if as_json:
        show_json({"id": token_id, "token": text})
    else:
        ends = "" if until is None else f", good until {until:%Y-%m-%d %H:%M} UTC"
        click.echo(f"Token {token_id} of account {account}{ends}:", err=True)
        click.echo(text)


@token.command("list")
@click.option("--account", type=IDENTIFIER, help="Only this account's.")
@json_option
@with_config
def list_(config: Config, account: int | None, as_json: bool) -> None:
    """Lists the tokens, without what they are."""
    rows = ask(config, lambda connection: insight.tokens(connection, account))
    show_rows(rows, as_json, "No token yet: bisd token add ACCOUNT")


@token.command()
@click.argument("id", type=IDENTIFIER)
@with_config
def revoke(config: Config, id: int) -> None:
    """Revokes a token: from now on it opens nothing."""
    ask(config, lambda connection: control.revoke_token(connection, id))
    click.echo(f"Token {id} is revoked.")
