"""What people write into forms, and what it means. What cannot be meant is refused by the name of its field."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from bisd.admin.pages.gate import Form
from bisd.admin.pages.rendering import say
from bisd.errors import RequestRefusedError

_EVENT = re.compile(r"(?:evt_)?([1-9][0-9]{0,17})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", re.ASCII)
# As the schema has it (bisd.moment).
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_MOST_LINES = 64


def wrong(name: str) -> RequestRefusedError:
    return RequestRefusedError(reason=say("refused.value", name=name))


def text(form: Form, name: str) -> str:
    return form.get(name, "").strip()


def topic(form: Form, name: str) -> str | None:
    """Visible ASCII, as the schema has it; None: nothing was given."""
    given = text(form, name)
    if not (given.isascii() and given.isprintable()):
        raise wrong(name)
    return given or None


def one_of(form: Form, name: str, choices: tuple[str, ...]) -> str:
    given = text(form, name)
    if given not in choices:
        raise wrong(name)
    return given


def moment(form: Form, name: str) -> datetime | None:
    """As a browser's field for a time sends it; it is UTC. None: nothing was given."""
    if not (given := text(form, name)):
        return None
    try:
        at = datetime.fromisoformat(given).replace(tzinfo=UTC)
    except ValueError:
        raise wrong(name) from None
    if not _EARLIEST <= at <= _LATEST:
        raise wrong(name)
    return at


def number(form: Form, name: str) -> float | None:
    if not (given := text(form, name)):
        return None
    if not _NUMBER.fullmatch(given):
        raise wrong(name)
    return float(given)


def event(form: Form, name: str) -> int | None:
    """An event by its number, or as the header webhook-id has it."""
    if not (given := text(form, name)):
        return None
    if (match := _EVENT.fullmatch(given)) is None:
        raise wrong(name)
    return int(match[1])


def headers(form: Form, name: str) -> dict[str, str] | None:
    """A header on each line; None: nothing was given."""
    found: dict[str, str] = {}
    for line in form.get(name, "").splitlines()[:_MOST_LINES]:
        if not line.strip():
            continue
        header, colon, value = line.partition(":")
        if not colon or header.strip() in found:
            raise RequestRefusedError(reason=say("setting.no_header"))
        found[header.strip()] = value.strip()
    return found or None


def as_field(at: datetime) -> str:
    """A time as such a field shows it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M}"


def ago(duration: timedelta) -> str:
    return as_field(datetime.now(UTC) - duration)
