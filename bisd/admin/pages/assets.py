"""The stylesheet, the script and the sign of the pages: files, which tell nothing and are for everybody."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from aiohttp import web

STATIC = Path(__file__).parent / "static"
_TYPES = {"bisd.css": "text/css", "bisd.js": "text/javascript", "bisd.svg": "image/svg+xml"}


def routes() -> list[web.RouteDef]:
    return [web.get(f"/static/{name}", partial(_answer, name)) for name in _TYPES]


async def _answer(name: str, _: web.Request) -> web.StreamResponse:
    return web.Response(text=_text(name), content_type=_TYPES[name], charset="utf-8")


@cache
def _text(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
