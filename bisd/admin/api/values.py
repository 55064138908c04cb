"""What stands in requests and answers: text that a database can hold, numbers in range, times with their zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
)

from bisd.values import parse_duration

_MOST = 2**63 - 1
# As the schema has it (bisd.moment).
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class Given(BaseModel):
    """Of a request: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shown(BaseModel):
    """Of an answer: of a row, what is named."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _holdable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL, which the database cannot hold")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain half of a surrogate pair, which is no character")
    return text


def _digits(value: object) -> object:
    """A number of a path or a query: digits, nothing else."""
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
            raise ValueError("must be a whole number in digits")
        return int(value)
    return value


def _flag(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _text_of_time(value: object) -> object:
    if not isinstance(value, str) or re.fullmatch(r"[-+.0-9]*", value):
        raise ValueError("must be a time in text, like 2026-03-01T12:00:00Z")
    return value


def _in_range(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("must lie between the years 1970 and 9000")
    return moment


Text = Annotated[str, Strict(), AfterValidator(_holdable)]
Identifier = Annotated[int, Strict(), Field(ge=1, le=_MOST)]
# Of a path or a query.
Number = Annotated[int, BeforeValidator(_digits), Field(ge=1, le=_MOST)]
After = Annotated[int, BeforeValidator(_digits), Field(ge=0, le=_MOST)]
Limit = Annotated[int, BeforeValidator(_digits), Field(ge=1, le=200)]
Flag = Annotated[bool, BeforeValidator(_flag), Strict()]
Moment = Annotated[AwareDatetime, BeforeValidator(_text_of_time), AfterValidator(_in_range)]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema({
        "type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,6})?(ms|[smhdw])$", "description": "Like 90m, 24h or 7d.",
    }),
]  # fmt: skip
