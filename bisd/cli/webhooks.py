"""bisd webhook ..."""

from __future__ import annotations

import click

from bisd import control, db, insight
from bisd.cli.context import ask, confirmed, with_config
from bisd.cli.output import json_option, show_json, show_record, show_rows
from bisd.cli.values import IDENTIFIER, Number, Setting
from bisd.config import Config
from bisd.egress import Egress
from bisd.listing import Row


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
@json_option
@with_config
def show(config: Config, id: int, as_json: bool) -> None:
    """Shows a webhook: its settings, how it is doing, and why."""
    row = ask(config, lambda connection: insight.webhook(connection, id))
    del row["tag"]  # for programs that change it by the API
    show_record(row if as_json else row | {"backlog": _owed(row)}, as_json)


@webhook.command()
@click.argument("id", type=IDENTIFIER)
@click.option("--resume", "held", flag_value="resume", help="What was held for it goes out.")
@click.option("--discard", "held", flag_value="discard", help="What was held for it is cancelled.")
@with_config
def enable(config: Config, id: int, held: str | None) -> None:
    """Switches a webhook on. What was held for it is to resume or to be discarded, as [deactivation] on_resume says unless you
    do."""
    treated = held or config.deactivation.on_resume
    ask(config, lambda connection: control.enable_webhook(connection, id, treated))
    click.echo(f"Webhook {id} is switched on.")
    click.echo(f"What was held for it {'goes out' if treated == 'resume' else 'is cancelled'}.", err=True)


@webhook.command()
@click.argument("id", type=IDENTIFIER)
@with_config
def disable(config: Config, id: int) -> None:
    """Switches a webhook off; what it is owed is held."""
    ask(config, lambda connection: control.disable_webhook(connection, id))
    click.echo(f"Webhook {id} is switched off.")


@webhook.command()
@click.argument("id", type=IDENTIFIER)
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_config
def remove(config: Config, id: int, yes: bool) -> None:
    """Removes a webhook: what it is owed is cancelled, what was sent stays known until its retention ends."""
    row = ask(config, lambda connection: insight.webhook(connection, id))
    confirmed(yes, f"Remove webhook {id} to {row['url']} and cancel the {_owed(row)} deliveries it is owed?")
    ask(config, lambda connection: control.remove_webhook(connection, id))
    click.echo(f"Webhook {id} is removed.")


@webhook.command()
@click.argument("id", type=IDENTIFIER)
@click.option("--wait", type=Number(1, 300), default=30.0, show_default=True, help="For the answer, in seconds.")
@json_option
@with_config
def test(config: Config, id: int, wait: float, as_json: bool) -> None:
    """Sends a test payload, on or off, and shows what the receiver answered; exit 1 if it did not take it."""

    async def send(connection: db.Connection) -> tuple[int, Row | None]:
        event_id = await control.send_test(connection, id)
        return event_id, await insight.answer(connection, event_id, wait)

    event_id, attempt = ask(config, send)
    if attempt is None:
        raise click.ClickException(
            f"no daemon has sent test {event_id} within {wait:g} s; is `bisd run` up? It goes out when it is."
        )
    show_record(attempt, as_json)
    click.get_current_context().exit(0 if attempt["verdict"] == "delivered" else 1)


@webhook.command("set")
@click.argument("id", type=IDENTIFIER)
@click.argument("settings", type=Setting(), nargs=-1, required=True)
@with_config
def set_(config: Config, id: int, settings: tuple[tuple[str, object], ...]) -> None:
    """Changes settings: url, description, max_in_flight, rate (per second), ordered (yes, no), headers (a JSON object), filter
    (a jsonpath predicate, like '$.quantity_required > 1'). KEY= sets one back to its default."""
    changed = dict(settings)
    if len(changed) < len(settings):
        raise click.UsageError("A setting is given twice.")
    if isinstance(url := changed.get("url"), str):
        Egress(config.egress).permit_url(url)
    ask(config, lambda connection: control.set_webhook(connection, id, changed))
    click.echo(f"Webhook {id} has new settings: {', '.join(changed)}.")


def _owed(row: Row) -> str:
    """How much it is owed, which is not counted to its end."""
    return f"{row['backlog']}{'+' if row['backlog'] == insight.COUNTED_BACKLOG else ''}"
