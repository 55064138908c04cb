"""bisd demo, run, migrate, check, listen"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from datetime import datetime
from pathlib import Path

import click
import uvloop
from aiohttp import http_parser

from bisd import db, embedded, log, scrutiny
from bisd import migrate as migration
from bisd.check import Level, host
from bisd.check import check as checks
from bisd.cli.context import config_file, connected, told, with_config, with_file
from bisd.cli.output import json_option, show_rows
from bisd.config import Config
from bisd.demo import Demo, Shown
from bisd.errors import BisdError, ParserMissingError
from bisd.receiver import Received, Receiver
from bisd.service import Service


@click.command()
@click.option("--once", is_flag=True, help="Deliver a few, print them, and end: 0 if all arrived, else 1.")
@with_config
def demo(config: Config, once: bool) -> None:
    """A shop, the daemon with its pages, and a receiver that verifies signatures, on one machine."""
    log.configure("warning", config.log.format)
    dsn = embedded.start()  # whatever the configuration names: nobody's shop is played with
    arrived = []

    def show(shown: Shown) -> None:
        arrived.append(shown)
        verified = "verified" if shown.received.verified else "NOT VERIFIED"
        click.echo(
            f"{shown.received.webhook_id:<8} {shown.received.topic:<20} {shown.product:<10} "
            f"signature {verified}   {shown.seconds * 1000:6.1f} ms from commit to arrival"
        )

    def open_pages(link: str) -> None:
        click.echo(f"The pages, for a day, for whoever has this link: {link}", err=True)

    async def act() -> bool:
        await _migrate(dsn)
        return await Demo(config, dsn, show, open_pages).run(once)

    click.echo("A shop inserts notifications into PostgreSQL; bisd delivers them; the receiver verifies them.", err=True)
    try:
        complete = uvloop.run(act())
    except KeyboardInterrupt:
        complete = True
    click.echo(f"{len(arrived)} webhooks delivered.", err=True)
    sys.exit(0 if complete else 1)


@click.command()
@with_file
def run(file: Path | None) -> None:
    """The daemon, in the foreground; SIGTERM ends it in order, SIGHUP has it read its configuration again."""
    _require_parser()
    config = scrutiny.read(file, os.environ)
    log.configure(config.log.level, config.log.format)
    scrutiny.tell(config, file)
    dsn = db.resolve_dsn(config.database)
    _open_more(host.files_needed(config))

    def reread() -> Config:
        config = scrutiny.read(file, os.environ)
        scrutiny.tell(config, file)
        return config

    async def serve() -> None:
        service = Service(config, dsn, reread)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        loop.add_signal_handler(signal.SIGHUP, service.reload)
        await service.run()

    try:
        uvloop.run(serve())
    except* BisdError as faults:
        raise faults.exceptions[0] from None


def _require_parser() -> None:
    """Raises ParserMissingError where aiohttp has fallen back, without a word, on its parser in Python, which has faults of its
    own."""
    if http_parser.HttpResponseParser is http_parser.HttpResponseParserPy:
        raise ParserMissingError


def _open_more(needed: int) -> None:
    """As many files as we are allowed to: a shell's soft limit is fewer than there are connections to be in flight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.get().warning(log.Event.FILES_FEW, limit=hard, needed=needed)


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the schema is up to date; exit 1 if not.")
@with_config
def migrate(config: Config, check: bool) -> None:
    """Brings the schema up to date."""
    dsn = db.resolve_dsn(config.database)
    with told():
        applied = asyncio.run(_check(dsn) if check else _migrate(dsn))
    for step in applied:
        click.echo(f"applied {step.number:04} {step.name}")
    click.echo("The schema is up to date.", err=True)


@click.command()
@json_option
@with_config
def check(config: Config, as_json: bool) -> None:
    """Says what would not work, and what to do about it: files, server, session, schema, rights, what goes on, keys, hosts.
    Exit 1 if something would not."""
    dsn = db.resolve_dsn(config.database)
    with told():
        findings = asyncio.run(checks(dsn, config, config_file()))
    show_rows([finding._asdict() for finding in findings], as_json, "")
    click.get_current_context().exit(1 if any(finding.level is Level.FAULT for finding in findings) else 0)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option("--key", envvar="BISD_LISTEN_KEY", help="The account's API key, to verify with.")
@click.option("--status", type=click.IntRange(200, 599), default=200, show_default=True, help="What to answer.")
def listen(port: int, key: str | None, status: int) -> None:
    """A local receiver that shows and verifies what comes in."""

    def show(received: Received) -> None:
        verified = {True: "verified", False: "NOT VERIFIED", None: "not checked"}[received.verified]
        time = datetime.fromtimestamp(received.at).strftime("%H:%M:%S")
        click.echo(f"{time} {received.topic} {received.webhook_id} attempt {received.attempt} signature {verified}")
        click.echo(received.body.decode("utf-8", "backslashreplace"))

    async def serve() -> None:
        receiver = Receiver(show, status, key)
        try:
            click.echo(f"Listening on {await receiver.start(port)}", err=True)
        except OSError as fault:
            raise click.UsageError(f"port {port} cannot be used: {fault.strerror}") from None
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


async def _migrate(dsn: str) -> list[migration.Migration]:
    connection = await connected(dsn)
    try:
        return await migration.migrate(connection)
    finally:
        await connection.close()


async def _check(dsn: str) -> list[migration.Migration]:
    connection = await connected(dsn)
    try:
        await migration.require_current(connection)
        return []
    finally:
        await connection.close()
