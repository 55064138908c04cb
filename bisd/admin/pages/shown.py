"""How values look on a page. What merchants and receivers wrote is text, whatever is in it: characters that show nothing, or
change the order of what is beside them, are made visible."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

# Beside what can be seen: spaces of all kinds, and what makes lines.
_LINES = "\n\t"
_SPACES = "Zs"
# Of one text. A page is made beside the loop that delivers, at the choice of whoever wrote it: the API gives all of it.
_MOST_SHOWN = 1 << 15
_HIDDEN = '<span class="hidden-character">?</span>'
_READABLE = json.JSONEncoder(indent=2, ensure_ascii=False)
_MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)")
_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def visible(text: object) -> Markup:
    """Of one line: line breaks are marked too."""
    return _marked(str(text), "")


def visible_lines(text: object) -> Markup:
    return _marked(str(text).replace("\r\n", "\n"), _LINES)


def plain(text: object) -> str:
    """The same for attributes, where nothing can be marked."""
    return "".join(one if _can_be_seen(one) else f"[{_name(one)}]" for one in str(text))


def octets(answer: bytes | None) -> str:
    """What a receiver answered, as text."""
    return (answer or b"").decode("utf-8", "backslashreplace")


def indented(body: str) -> str:
    """JSON, so that people can read it; as it is if that would be long, or it is none."""
    if len(body) > _MOST_SHOWN:
        return body
    parts, size = list[str](), 0
    try:
        for part in _READABLE.iterencode(json.loads(body)):
            parts.append(part)
            size += len(part)
            if size > _MOST_SHOWN:
                return body
    except (ValueError, RecursionError):
        return body
    return "".join(parts)


def moment(at: datetime) -> Markup:
    """Script shows it in the zone of who reads it (bisd.js); without script, and where somebody points at it, it is UTC."""
    at = at.astimezone(UTC)
    exact = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"
    return Markup(f'<time datetime="{at.isoformat()}" title="{exact}">{at:%d %b %H:%M:%S} UTC</time>')  # noqa: S704  # digits


def note(text: object) -> Markup:
    """What the database says of a webhook; the moments in it as any others."""
    parts = _MOMENT.split(str(text))
    told = [visible(part) if place % 2 == 0 else moment(datetime.fromisoformat(part)) for place, part in enumerate(parts)]
    return Markup("").join(told)


def lasting(duration: timedelta | float) -> str:
    """Its two largest units: 2 d 3 h."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    parts, left = list[str](), max(0, round(seconds))
    for size, unit in _STEPS:
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts)


def milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def count(number: float, counted: int | None = None) -> str:
    """Of what is counted up to so many there may be more."""
    return f"{number:,.0f}{'+' if number == counted else ''}"


def percent(part: float | None) -> str:
    """99.96 % is not all."""
    if part is None:
        return "-"
    return f"{int(part * 1000) / 10:g} %"


def _marked(text: str, kept: str) -> Markup:
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]} …"
    if text.translate(dict.fromkeys(map(ord, kept))).isprintable():
        return escape(text)
    parts = (escape(one) if _can_be_seen(one) or one in kept else _HIDDEN.replace("?", _name(one)) for one in text)
    return Markup("".join(parts))  # noqa: S704  # escaped, character by character


def _can_be_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == _SPACES


def _name(character: str) -> str:
    return f"U+{ord(character):04X}"
