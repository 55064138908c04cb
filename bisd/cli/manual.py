"""bisd manual, completion: the manual page and the shells' completion, made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import click
from click.shell_completion import get_completion_class

from bisd import __version__

_ENDS = (
    ("0", "Done."),
    ("1", "Failed, or what was asked for is not so; standard error says which, in a sentence."),
    ("2", "Wrong use, or a wrong configuration: every fault of it at once, each with its key."),
)
_VARIABLES = (
    (
        "BISD_SECTION_KEY",
        "Any key of the configuration, like BISD_RETRY_MAX_ATTEMPTS; wins over the file. An unknown one stops the start.",
    ),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts credentials: dsn and master serve where the configuration names no other."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Where bisd run tells systemd how it is, and how often; see sd_notify(3)."),
)
_FILES = (
    ("/etc/bisd/NAME.toml", "The configuration of one deployment, as bisd@NAME.service reads it."),
    ("PREFIX/share/bisd/bisd.toml", "Every key of the configuration, with its default and what it is for."),
    ("PREFIX/share/bisd/systemd/", "Units for systemd. PREFIX is where bisd was installed, like /opt/bisd."),
)
_SIGNALS = (
    (
        "SIGTERM, SIGINT",
        "bisd run sends nothing new, lets what is in flight end, writes every outcome, and ends. "
        "A second one cuts short what is in flight, which is sent again later.",
    ),
    ("SIGHUP", "bisd run reads its configuration again; with a fault in it, the one before stays in force."),
)


@click.command()
def manual() -> None:
    """The manual page, for man: bisd manual | man -l -"""
    root = click.get_current_context().find_root().command
    click.echo("\n".join(_page(cast(click.Group, root))))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """What makes SHELL complete bisd's commands and options: eval "$(bisd completion bash)\""""
    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "bisd", "_BISD_COMPLETE").source())


def _page(root: click.Group) -> Iterator[str]:
    """Lines of man(7). Options that every command has are told once, at the top."""
    context = click.Context(root, info_name="bisd", help_option_names=["-h", "--help"], max_content_width=100)
    yield f'.TH BISD 1 "" "bisd {__version__}" "User Commands"'
    yield from (".SH NAME", f"bisd \\- {_text(_paragraphs(root)[0].removeprefix('bisd ').rstrip('.'))}")
    yield from (".SH SYNOPSIS", ".B bisd", _text("[OPTIONS] COMMAND [ARGUMENTS]"))
    yield ".SH DESCRIPTION"
    yield from _prose(root)
    yield from (".PP", _text("Data goes to standard output, talk to standard error."))
    yield ".SH OPTIONS"
    yield from _tagged(_options(root, context))
    yield from (".PP", _text("Every command takes --config and --help too."))
    yield ".SH COMMANDS"
    for name, command in root.commands.items():
        yield from _command(command, click.Context(command, parent=context, info_name=name))
    variables = [(one.envvar, one.help or "") for one in _parameters(root) if isinstance(one.envvar, str)]
    for heading, entries in (
        ("EXIT STATUS", _ENDS),
        ("ENVIRONMENT", (*variables, *_VARIABLES)),
        ("FILES", _FILES),
        ("SIGNALS", _SIGNALS),
    ):
        yield f".SH {heading}"
        yield from _tagged(entries)
    yield from (".SH SEE ALSO", _text("systemd.service(5), psql(1)"))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(inner, click.Context(inner, parent=context, info_name=name))
        return
    arguments = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    yield f'.SS "{_text(" ".join([context.command_path, *arguments]))}"'
    yield from _prose(command)
    yield from _tagged(_options(command, context))


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """As `--help` shows them, in its words; for a command without what all of them have."""
    told_once = set() if context.parent is None else {"--config", "--help"}
    options = [one for one in command.get_params(context) if isinstance(one, click.Option) and not told_once & set(one.opts)]
    return [record for one in options if (record := one.get_help_record(context)) is not None]


def _parameters(command: click.Command) -> Iterator[click.Option]:
    """Every option, wherever it stands."""
    yield from (one for one in command.params if isinstance(one, click.Option))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _parameters(inner)


def _tagged(entries: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for tag, text in entries:
        yield from (".TP", f"\\fB{_text(tag)}\\fR", _text(text))


def _prose(command: click.Command) -> Iterator[str]:
    for number, paragraph in enumerate(_paragraphs(command)):
        if number:
            yield ".PP"
        yield _text(paragraph)


def _paragraphs(command: click.Command) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", (command.help or "").strip())]


def _text(text: str) -> str:
    """Text in which roff sees nothing but text: no escape, no hyphen that cannot be copied, no request at the start of a line,
    no end of a quoted argument."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
