"""The API, /api/v1: one table of operations, of which its routes and its document are made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cache, partial
from http import HTTPMethod

from aiohttp import web
from aiohttp.typedefs import Handler

from bisd.admin.api import accounts, deliveries, events, fleet, portal, sending, tokens, webhooks
from bisd.admin.api.answering import Answering
from bisd.admin.api.document import document
from bisd.admin.api.operation import PREFIX, Operation, Parts
from bisd.admin.callers import Callers
from bisd.admin.desk import Desk
from bisd.config import Config
from bisd.keyring import Keyring

OPERATIONS: list[Operation] = [
    *accounts.OPERATIONS,
    *portal.OPERATIONS,
    *webhooks.OPERATIONS,
    *sending.OPERATIONS,
    *events.OPERATIONS,
    *deliveries.OPERATIONS,
    *tokens.OPERATIONS,
    *fleet.OPERATIONS,
]


def routes(desk: Desk, callers: Callers, keyring: Keyring, config: Callable[[], Config]) -> list[web.RouteDef]:
    """`config` gives the one in force."""
    answering = Answering(desk, callers, Parts(keyring, config, callers.token))
    return [
        web.get(f"{PREFIX}/openapi.json", _documenting(callers)),
        *(_route(one)(f"{PREFIX}{one.path}", answering.handler(one)) for one in OPERATIONS),
    ]


def _route(one: Operation) -> Callable[[str, Handler], web.RouteDef]:
    return web.get if one.method is HTTPMethod.GET else partial(web.route, one.method)


def _documenting(callers: Callers) -> Handler:
    """To whoever has a token; made when it is first asked for, beside the loop that delivers."""

    @cache
    def octets() -> bytes:
        return json.dumps(document(OPERATIONS)).encode()

    async def tell(request: web.Request) -> web.StreamResponse:
        await callers.caller(request)
        return web.Response(body=await asyncio.to_thread(octets), content_type="application/json")

    return tell
