"""bisd webhook ..."""

from __future__ import annotations

import click

from bisd import control, db, insight
from bisd.cli.context import IDENTIFIER, ask, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.config import Config
from bisd.egress import Egress


@click.group()
def webhook() -> None:
    """Subscriptions: one account, one topic, one URL, on or off."""


@webhook.command()
@click.argument("account", type=IDENTIFIER)
@click.argument("topic")
@click.argument("url")
@click.option("--enable", is_flag=True, help="Switch it on at once.")
@json_option
@with_config
def add(config: Config, account: int, topic: str, url: str, enable: bool, as_json: bool) -> None:
    """Subscribes URL to TOPIC; switched off until enabled."""
    Egress(config.egress).permit_url(url)

    async def create(connection: db.Connection) -> int:
        async with connection.transaction():
            webhook_id = await control.create_webhook(connection, account, topic, url)
            if enable:
                await control.enable_webhook(connection, webhook_id)
        return webhook_id

    webhook_id = ask(config, create)
    if as_json:
        show_json({"id": webhook_id, "enabled": enable})
    else:
        state = "on" if enable else f"off: bisd webhook enable {webhook_id}"
        click.echo(f"Webhook {webhook_id} is switched {state}.")


@webhook.command("list")
@click.option("--account", type=IDENTIFIER, help="Only this account's.")
@json_option
@with_config
def list_(config: Config, account: int | None, as_json: bool) -> None:
    """Lists the webhooks."""
    rows = ask(config, lambda connection: insight.webhooks(connection, account))
    show_rows(rows, as_json, "No webhook yet: bisd webhook add ACCOUNT TOPIC URL --enable")


@webhook.command()
@click.argument("id", type=IDENTIFIER)
@with_config
def enable(config: Config, id: int) -> None:
    """Switches a webhook on; what was held for it goes out."""
    ask(config, lambda connection: control.enable_webhook(connection, id))
    click.echo(f"Webhook {id} is switched on.")


@webhook.command()
@click.argument("id", type=IDENTIFIER)
@with_config
def disable(config: Config, id: int) -> None:
    """Switches a webhook off; what it is owed is held."""
    ask(config, lambda connection: control.disable_webhook(connection, id))
    click.echo(f"Webhook {id} is switched off.")
