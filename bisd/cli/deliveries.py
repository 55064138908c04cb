"""bisd delivery ..."""

from __future__ import annotations

import click

from bisd import insight
from bisd.cli.context import IDENTIFIER, ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.config import Config

_STATES = ("pending", "retrying", "held", "delivered", "failed", "expired", "cancelled", "refused")

_SHOWN = ("webhook_id", "number", "attempted_at", "verdict", "status", "code", "total_ms", "answer")


@click.group()
def delivery() -> None:
    """Deliveries and their attempts."""


@delivery.command("list")
@click.option("--webhook", type=IDENTIFIER, help="Only this webhook's.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@json_option
@with_config
def list_(config: Config, webhook: int | None, state: str | None, limit: int, as_json: bool) -> None:
    """Lists the newest deliveries."""
    rows = ask(config, lambda connection: insight.deliveries(connection, webhook, state, limit))
    show_rows(rows, as_json, "No delivery.")


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
