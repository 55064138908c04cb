"""bisd delivery ..., bisd replay"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime

import click
from rich.console import Console
from rich.progress import Progress

from bisd import control, db, insight
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.cli.values import IDENTIFIER, Moment, Number
from bisd.config import Config
from bisd.deliveries import STATES

_SHOWN = ("webhook_id", "number", "attempted_at", "verdict", "status", "code", "total_ms", "answer")


@click.group()
def delivery() -> None:
    """Deliveries and their attempts."""


@delivery.command("list")
@click.option("--webhook", type=IDENTIFIER, help="Only this webhook's.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@json_option
@with_config
def list_(config: Config, webhook: int | None, state: str | None, limit: int, as_json: bool) -> None:
    """Lists deliveries, those with which something happened last first."""

    async def look(connection: db.Connection) -> insight.Rows:
        page = await insight.deliveries(connection, webhook_id=webhook, state=state, most=limit)
        rows = page.rows
        while page.next is not None and len(rows) < limit:
            page = await insight.deliveries(connection, webhook_id=webhook, state=state, after=page.next, most=limit)
            rows += page.rows
        return rows[:limit]

    show_rows(ask(config, look), as_json, "No delivery.")


@delivery.command()
@click.argument("event", type=IDENTIFIER)
@json_option
@with_config
def show(config: Config, event: int, as_json: bool) -> None:
    """Shows what EVENT owed to whom, and every attempt."""
    deliveries, attempts = ask(config, lambda connection: insight.delivery(connection, event))
    if as_json:
        show_json({"deliveries": deliveries, "attempts": attempts})
    else:
        show_rows(deliveries, False, "")
        show_rows([{key: attempt[key] for key in _SHOWN} for attempt in attempts], False, "No attempt yet.")


@delivery.command()
@click.argument("event", type=IDENTIFIER)
@click.option("--webhook", type=IDENTIFIER, help="Only to this webhook.")
@with_config
def retry(config: Config, event: int, webhook: int | None) -> None:
    """Sends EVENT again, now: what is owed without waiting, what was settled with a schedule of its own."""
    number = ask(config, lambda connection: control.retry(connection, event, webhook))
    _tell(number, f"Event {event} is due to {number} webhook(s) now.", f"Nothing of event {event} can be sent again")


@delivery.command()
@click.argument("event", type=IDENTIFIER)
@click.option("--webhook", type=IDENTIFIER, help="Only to this webhook.")
@with_config
def cancel(config: Config, event: int, webhook: int | None) -> None:
    """Cancels what is still owed of EVENT."""
    number = ask(config, lambda connection: control.cancel(connection, event, webhook))
    _tell(number, f"Event {event} is not owed to {number} webhook(s) any more.", f"Nothing is owed of event {event}")


def _tell(number: int, done: str, nothing: str) -> None:
    if number == 0:
        raise click.ClickException(f"{nothing}: bisd delivery show tells what there is.")
    click.echo(done)


@click.command()
@click.argument("webhook", type=IDENTIFIER)
@click.option("--since", type=Moment(), help="What happened from then on; a time with its zone, or 2h for two hours ago.")
@click.option("--until", type=Moment(), help="And before then.  [default: now]")
@click.option("--failed", is_flag=True, help="Only what failed, expired or was refused.")
@click.option("--rate", type=Number(0.001, 100_000), default=100.0, show_default=True, help="How many per second.")
@click.option("--cancel", "cancelling", is_flag=True, help="Take back what earlier replays still have to send.")
@json_option
@with_config
def replay(
    config: Config,
    webhook: int,
    since: datetime | None,
    until: datetime | None,
    failed: bool,
    rate: float,
    cancelling: bool,
    as_json: bool,
) -> None:
    """Owes WEBHOOK again what was sent, missed or failed. On a terminal it stays and shows how far it is; Ctrl-C leaves it to
    go on."""
    if cancelling == (since is not None) or (cancelling and (until or failed)):
        raise click.UsageError("Give either --since TIME and what goes with it, or --cancel.")
    if cancelling or since is None:
        number = ask(config, lambda connection: control.cancel_replay(connection, webhook))
        show_json({"cancelled": number}) if as_json else click.echo(
            f"{number} deliveries to webhook {webhook} were taken back."
        )
        return
    begin = since
    number = ask(config, lambda connection: control.replay(connection, webhook, begin, until, failed, rate))
    if as_json:
        show_json({"replayed": number})
        return
    click.echo(f"{number} deliveries are owed to webhook {webhook} again, {rate:g} per second.")
    if number and sys.stderr.isatty():
        try:
            ask(config, lambda connection: _follow(connection, webhook))
        except KeyboardInterrupt:
            click.echo(f"It goes on without you; bisd replay {webhook} --cancel takes back the rest.", err=True)


async def _follow(connection: db.Connection, webhook_id: int) -> None:
    """Until nothing of the replays to this webhook is left."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = left = await insight.replaying(connection, webhook_id)
        task = progress.add_task("replaying", total=total)
        while left:
            progress.update(task, completed=total - left)
            await asyncio.sleep(0.5)
            left = await insight.replaying(connection, webhook_id)
