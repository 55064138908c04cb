"""What is typed on a command line, and what it means."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from bisd.values import parse_duration

IDENTIFIER = click.IntRange(1, 2**63 - 1)
# What stands for itself; the other settings of a webhook are numbers, yes or no, or JSON.
_TEXTS = {"url", "description", "filter"}


class Duration(click.ParamType[timedelta]):
    """'24h' -> timedelta."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError:
            self.fail(f'"{value}" is no duration; give one like 90m, 24h or 7d', param, ctx)


class Moment(click.ParamType[datetime]):
    """'2026-03-01T12:00:00Z', or '2h' for two hours ago -> aware datetime."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        text = str(value)
        try:
            return datetime.now(UTC) - parse_duration(text)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f'"{text}" is no time; give one like 2026-03-01T12:00:00Z, or 2h for two hours ago', param, ctx)
        if moment.tzinfo is None:
            self.fail(f'"{text}" has no time zone; append Z for UTC, or an offset like +02:00', param, ctx)
        return moment


class Number(click.FloatRange):
    """A number within bounds; NaN lies in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is no number", param, ctx)
        return number


class Setting(click.ParamType[tuple[str, object]]):
    """'rate=10' -> ('rate', 10); 'rate=' -> ('rate', None), which is back to the default."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        match = re.fullmatch(r"([a-z_]+)=(.*)", str(value), re.DOTALL)
        if match is None:
            self.fail(f'"{value}" is no KEY=VALUE, like rate=10', param, ctx)
        key, text = match[1], match[2]
        if not text:
            return key, None
        if key in _TEXTS:
            return key, text
        try:
            return key, json.loads(text, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return key, text


def _no_json(constant: str) -> float:
    """NaN and Infinity, which Python's parser takes for JSON."""
    raise ValueError(constant)
