"""bisd portal-link"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import time

import click

from bisd import insight
from bisd.admin import guard, portal
from bisd.cli.context import ask, with_config
from bisd.cli.output import json_option, show_json
from bisd.cli.values import IDENTIFIER, Duration
from bisd.config import Config
from bisd.errors import ConfigurationError


@click.command("portal-link")
@click.argument("account", type=IDENTIFIER)
@click.option("--for", "lasting", type=Duration(), default="1h", show_default=True, help="How long it opens them.")
@json_option
@with_config
def portal_link(config: Config, account: int, lasting: timedelta, as_json: bool) -> None:
    """Makes a link that opens ACCOUNT's own pages, and nothing else, for a while."""
    token = guard.token(config.http)
    if token is None:
        raise ConfigurationError(["http.token_file: is needed to sign links: `openssl rand -hex 32` makes a token"])
    base = portal.base(config.http)
    grant = portal.grant(account, lasting, time())
    ask(config, lambda connection: insight.account(connection, account))
    url = portal.link(base, token, grant)
    if as_json:
        show_json({"url": url, "expires_at": datetime.fromtimestamp(grant.until, UTC)})
    else:
        click.echo(url)
