"""Templates with their texts, and nothing else that they could reach."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bisd.admin.pages import shown
from bisd.admin.pages.gate import FIELD
from bisd.admin.pages.texts import TEXTS

TEMPLATES = Path(__file__).parent / "templates"


def prepare() -> None:
    """Compiles the templates, which takes a tenth of a second: not when a page is first opened, while deliveries wait."""
    for name in _environment().list_templates(extensions=["html"]):
        _environment().get_template(name)


def say(key: str, **values: object) -> str:
    """A text, with what it has to name."""
    return TEXTS[key].format(**values)


def rendered(template: str, status: int, **values: object) -> web.Response:
    text = _environment().get_template(template).render(now=datetime.now(UTC), **values)
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")


def render_to_all(template: str, *, status: int = HTTPStatus.OK, **values: object) -> web.Response:
    """A page that anybody may see."""
    return rendered(template, status, viewer=None, account=None, base="", **values)


def refuse(status: HTTPStatus, key: str, **values: object) -> web.Response:
    return render_to_all("fault.html", status=status, sentence=say(key, **values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(say=say, csrf_field=FIELD)
    for one in (
        shown.note, shown.visible, shown.visible_lines, shown.plain, shown.octets, shown.indented, shown.moment, shown.lasting,
        shown.milliseconds, shown.count, shown.percent,
    ):  # fmt: skip
        environment.filters[one.__name__] = one
    return environment
