"""The command line. Data goes to standard output, talk to standard error; exit 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import cast

import click

from bisd import __version__
from bisd.errors import BisdError

# Every command, and its module.
_MODULES = {
    "demo": "daemon",
    "run": "daemon",
    "migrate": "daemon",
    "check": "daemon",
    "status": "status",
    "listen": "daemon",
    "bench": "bench",
    "account": "accounts",
    "webhook": "webhooks",
    "token": "tokens",
    "emit": "events",
    "delivery": "deliveries",
    "keys": "keys",
    "portal-link": "portal",
    "replay": "deliveries",
    "attach": "attach",
    "detach": "attach",
    "attachments": "attach",
    "manual": "manual",
    "completion": "manual",
}


class Commands(Mapping[str, click.Command]):
    """Imports a command when it is asked for: all of them together take a second, which is long for who completes a word."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"bisd.cli.{_MODULES[name]}"), name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


@click.group(
    commands=cast(MutableMapping[str, click.Command], Commands()),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="bisd")
@click.option("--config", type=click.Path(path_type=Path), envvar="BISD_CONFIG", help="The deployment's TOML file.")
@click.pass_context
def bisd(context: click.Context, config: Path | None) -> None:
    """bisd delivers webhooks straight out of PostgreSQL.

    Without a configuration, the embedded PostgreSQL serves.
    """
    context.obj = config


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
