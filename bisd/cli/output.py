"""Rows for people, as a table, or for programs, as JSON. Text that others wrote is shown as text, whatever is in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_WIDE = 10_000
json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")


def show_rows(rows: Sequence[dict[str, object]], as_json: bool, empty: str) -> None:
    """All rows have the same keys. `empty` is said, to people, where there are none."""
    if as_json:
        show_json(rows)
    elif not rows:
        click.echo(empty, err=True)
    else:
        show(tabulate(rows))


def tabulate(rows: Sequence[dict[str, object]]) -> Table:
    """There is one row at least."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right" if _is_number(rows[0][name]) else "left")
    for row in rows:
        table.add_row(*(Text(_printable(_text(value))) for value in row.values()))
    return table


def show_record(record: dict[str, object], as_json: bool) -> None:
    """One thing, a line for each of its fields."""
    if as_json:
        show_json(record)
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    for name, value in record.items():
        table.add_row(name.replace("_", " "), Text(_printable(_text(value))))
    show(table)


def show_json(value: object) -> None:
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def show(renderable: RenderableType) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE  # a file has no edge: nothing is shortened
    console.print(renderable)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:.1f}"
        case bytes():
            return value[:60].decode("utf-8", "replace")
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return value.decode("utf-8", "replace")
        case _:
            return str(value)
