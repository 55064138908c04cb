"""The command line. Data goes to standard output, talk to standard error; exit 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bisd import __version__
from bisd.cli import accounts, attach, bench, daemon, deliveries, events, keys, manual, status, webhooks
from bisd.errors import BisdError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bisd")
@click.option("--config", type=click.Path(path_type=Path), envvar="BISD_CONFIG", help="The deployment's TOML file.")
@click.pass_context
def bisd(context: click.Context, config: Path | None) -> None:
    """bisd delivers webhooks straight out of PostgreSQL.

    Without a configuration, the embedded PostgreSQL serves.
    """
    context.obj = config


for command in (
    daemon.demo,
    daemon.run,
    daemon.migrate,
    daemon.check,
    status.status,
    daemon.listen,
    bench.bench,
    accounts.account,
    webhooks.webhook,
    events.emit,
    deliveries.delivery,
    keys.keys,
    deliveries.replay,
    attach.attach,
    attach.detach,
    attach.attachments,
    manual.manual,
    manual.completion,
):
    bisd.add_command(command)


def main() -> None:
    """The console script. Faults that have a sentence are told by it; others are ours, and show where they came from."""
    try:
        bisd(prog_name="bisd")
    except BisdError as fault:
        click.echo(f"bisd: {fault}", err=True)
        sys.exit(fault.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as fault:
        click.echo(f"bisd: {fault.strerror or type(fault).__name__}", err=True)
        sys.exit(1)
