"""bisd bench"""

from __future__ import annotations

import asyncio
import difflib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bisd import db, log
from bisd.bench.figures import UNITS, Figures, Row
from bisd.bench.plot import ENDINGS, plot
from bisd.bench.registry import SCENARIOS
from bisd.bench.session import Report, measure, require
from bisd.cli.context import told, with_config
from bisd.cli.output import json_option, show_json, show_rows
from bisd.config import Config
from bisd.errors import BisdError

# What a shell says of a program that a signal ended.
_BY_SIGNAL = 128


def _known(context: click.Context, parameter: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in SCENARIOS:
            close = difflib.get_close_matches(name, list(SCENARIOS), n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(SCENARIOS)}."
            raise click.BadParameter(f"there is no scenario {name!r}; {hint}", context, parameter)
    return names or list(SCENARIOS)


def _picture(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    if file is not None and file.suffix not in ENDINGS:
        raise click.BadParameter(f"the file ends in {' or '.join(ENDINGS)}, which says what it becomes", context, parameter)
    if file is not None and not file.resolve().parent.is_dir():
        raise click.BadParameter(f"there is no directory {file.resolve().parent}", context, parameter)
    return file


@click.command()
@click.option("--scenario", "names", multiple=True, callback=_known, help="One of --list; several may be named. Without: all.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Figures are the medians of so many.")
@click.option(
    "--scale", type=click.FloatRange(0.0001, 100), default=1.0, show_default=True, help="Multiplies sizes and durations."
)
@click.option("--plot", "file", type=click.Path(path_type=Path), callback=_picture, help="A picture too: FILE.svg or FILE.png.")
@click.option("--list", "listing", is_flag=True, help="Say what there is, and how long it takes.")
@json_option
@with_config
def bench(
    config: Config, names: Sequence[str], rounds: int, scale: float, file: Path | None, listing: bool, as_json: bool
) -> None:
    """How fast this machine delivers, and what it costs, beside the bare HTTP client of the same run.

    Works on databases of its own, which it drops: on an embedded PostgreSQL, or beside the one that the configuration names.
    """
    if listing:
        rows = [{"scenario": name, "minutes": one.minutes, "what": one.about} for name, one in SCENARIOS.items()]
        show_rows(rows, as_json, "")
        return
    log.configure("warning", config.log.format)
    if file is not None:
        require("matplotlib")
    dsn = None if config.database.dsn is None and config.database.dsn_file is None else db.resolve_dsn(config.database)
    with told(), _progress() as tell:
        report = _run(measure(dsn, names, scale, rounds, tell, _ignore if as_json else _show))
    if as_json:
        show_json(_plain(report))
    else:
        click.echo("  ".join(f"{name} {value}" for name, value in report.machine.items()), err=True)
    for notice in report.notices:
        click.echo(f"bisd: {notice}", err=True)
    if file is not None:
        plot(report.rows, file)


def _run(measuring: Coroutine[None, None, Report]) -> Report:
    """To its end, or to a SIGTERM or Ctrl-C: either way, what was started is stopped, and what was made is dropped."""

    signals: list[int] = []

    async def run() -> Report:
        task = asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            signals.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await measuring

    try:
        try:
            return uvloop.run(run())
        except* BisdError as faults:
            raise faults.exceptions[0] from None
    except asyncio.CancelledError:
        sys.exit(_BY_SIGNAL + signals[0])


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, to people who watch."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what: progress.update(task, description=what)


def _ignore(*_: object) -> None:
    """JSON comes in one piece, in the end."""


def _show(name: str, rows: list[Row]) -> None:
    """A scenario's table; a figure that one of its cases does not have is left empty."""
    figures = list(dict.fromkeys(figure for row in rows for figure in row.figures))
    heads = {figure: f"{figure} {UNITS[figure]}".strip() for figure in figures}
    table: list[dict[str, object]] = [
        {name: row.case, **{heads[one]: _text(row.figures.get(one)) for one in figures}} for row in rows
    ]
    show_rows(table, False, "")


def _text(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(report: Report) -> dict[str, object]:
    def figures(of: Figures) -> dict[str, object]:
        return {name: {"value": value, "unit": UNITS[name]} for name, value in of.items()}

    def plain(row: Row) -> dict[str, object]:
        points = [point._asdict() for point in row.points]
        return {"scenario": row.scenario, "case": row.case, "figures": figures(row.figures), "points": points}

    rows = [plain(row) for row in report.rows]
    return {"machine": report.machine, "notices": report.notices, "rows": rows}
