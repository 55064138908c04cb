"""bisd attach, detach, attachments"""

from __future__ import annotations

import sys

import click

from bisd import control, insight
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_rows
from bisd.config import Config


@click.command()
@click.argument("table")
@click.option("--topic", required=True, help="The events' topic, like order/paid.")
@click.option("--on", "on_event", required=True, type=click.Choice(["insert", "update"]), help="What makes an event.")
@click.option("--account", required=True, help="Whose it is: a column, or an expression like new.shop_id.")
@click.option("--columns", help="The body's keys, in order: a,b,c. Default: all that the table has today.")
@click.option("--body", help="Instead of columns, an expression of type json.")
@click.option("--when", "condition", help='Only rows for which this is true, like "new.paid and not old.paid".')
@click.option("--strict", is_flag=True, help="A fault aborts the application's statement; else it is counted.")
@with_config
def attach(
    config: Config,
    table: str,
    topic: str,
    on_event: str,
    account: str,
    columns: str | None,
    body: str | None,
    condition: str | None,
    strict: bool,
) -> None:
    """Makes events out of the rows of TABLE, an existing one."""
    if columns is not None and body is not None:
        raise click.UsageError("--columns and --body: the body is one or the other.")
    names = None if columns is None else [name.strip() for name in columns.split(",")]
    wanted = (topic, on_event, account, names, body, condition, strict)
    ask(config, lambda connection: control.attach(connection, table, *wanted))
    click.echo(f"{table} is attached: {topic} on {on_event}.")


@click.command()
@click.argument("table")
@click.option("--topic", help="Only this topic's; default: all that is attached to TABLE.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_config
def detach(config: Config, table: str, topic: str | None, yes: bool) -> None:
    """Ends the events out of TABLE; those there are stay."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here whether to detach: say --yes.")
        click.confirm(f"No more {topic or 'events'} out of {table}; its faults are forgotten too?", abort=True, err=True)
    ask(config, lambda connection: control.detach(connection, table, topic))
    click.echo(f"{table} is detached.")


@click.command()
@json_option
@with_config
def attachments(config: Config, as_json: bool) -> None:
    """Lists what is attached, and how many events could not be made."""
    rows = ask(config, insight.attachments)
    show_rows(rows, as_json, "Nothing is attached yet: bisd attach TABLE --topic TOPIC --on insert --account COLUMN")
