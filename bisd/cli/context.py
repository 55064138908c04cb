"""What every command does first: find the configuration, and where it needs it the database."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import click

from bisd import config as configuration
from bisd import db, log, migrate
from bisd.config import Config
from bisd.errors import ConfigurationError, NotPermittedError, RequestRefusedError, ServerUnfitError

Result = TypeVar("Result")


def with_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the name of its configuration's file, or None; --config may stand before the command or after it."""

    @click.option("--config", "own", type=click.Path(path_type=Path), help="The deployment's TOML file.")
    @functools.wraps(command)
    def wrapped(own: Path | None, **options: object) -> object:
        return command(own or click.get_current_context().find_root().obj, **options)

    return wrapped


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command its configuration as first argument."""

    @with_file
    @functools.wraps(command)
    def wrapped(file: Path | None, /, **options: object) -> object:
        config = configuration.load(file, os.environ)
        log.configure(config.log.level, config.log.format)
        return command(config, **options)

    return wrapped


def ask(config: Config, question: Callable[[db.Connection], Awaitable[Result]]) -> Result:
    """Runs one question, or one order, over a connection of its own. Raises ServerUnfitError if there is no database, and
    what require_current raises."""
    dsn = db.resolve_dsn(config.database)

    async def run() -> Result:
        connection = await connected(dsn)
        try:
            await migrate.require_current(connection)
            return await question(connection)
        finally:
            await connection.close()

    with told():
        return asyncio.run(run())


@contextmanager
def told() -> Iterator[None]:
    """What the database cannot or will not do, in a sentence. Raises NotPermittedError or RequestRefusedError."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as fault:
        raise NotPermittedError(reason=fault.args[0]) from None
    except asyncpg.PostgresError as fault:
        raise RequestRefusedError(reason=f"the database refuses: {fault.args[0]} (SQLSTATE {fault.sqlstate})") from None
    except (asyncpg.InterfaceError, UnicodeEncodeError) as fault:
        reason = f"a value that was given is none that the database could hold ({type(fault).__name__})"
        raise RequestRefusedError(reason=reason) from None
    except TimeoutError:
        raise RequestRefusedError(reason="the database did not answer within a minute: is somebody holding a lock?") from None


def confirmed(yes: bool, question: str) -> None:
    """Asks before something is lost. Where nobody can answer, only --yes does."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer: say --yes.")
    click.confirm(question, abort=True, err=True)


async def connected(dsn: str) -> db.Connection:
    """A connection. Raises ServerUnfitError if the database does not answer, or not to us."""
    try:
        return await db.connect(dsn)
    except ValueError:
        raise ConfigurationError(["database.dsn: is not a PostgreSQL URL"]) from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
        raise ServerUnfitError(reason=f"it cannot be reached ({type(fault).__name__}): see [database] dsn") from None
