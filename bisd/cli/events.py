"""bisd emit"""

from __future__ import annotations

from typing import BinaryIO

import click

from bisd import control
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json
from bisd.cli.values import IDENTIFIER
from bisd.config import Config
from bisd.errors import BodyInvalidError


@click.command()
@click.argument("account", type=IDENTIFIER)
@click.argument("topic")
@click.argument("file", type=click.File("rb"))
@json_option
@with_config
def emit(config: Config, account: int, topic: str, file: BinaryIO, as_json: bool) -> None:
    """An event by hand: TOPIC for ACCOUNT, its body the JSON in FILE (-: standard input), byte for byte."""
    try:
        body = file.read().decode("utf-8")
    except UnicodeDecodeError:
        raise BodyInvalidError(source=file.name, reason="it is not UTF-8") from None
    event_id = ask(config, lambda connection: control.emit(connection, account, topic, body, file.name))
    if as_json:
        show_json({"id": event_id})
    else:
        click.echo(f"Event {event_id}.")
