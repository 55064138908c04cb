"""What an operator's programs ask: a load balancer, systemd's or a container's probes, Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from bisd.admin.guard import for_bearers
from bisd.vitals import Condition, Vitals


def routes(vitals: Vitals, registry: CollectorRegistry, token: bytes | None) -> list[web.RouteDef]:
    """All of them answer from memory: what the database does is not waited for."""
    return [
        web.get("/healthz", _telling(vitals.alive)),
        web.get("/readyz", _telling(vitals.ready)),
        web.get("/metrics", for_bearers(make_aiohttp_handler(registry), token)),
    ]


def _telling(ask: Callable[[], Condition]) -> Handler:
    """200 if there is no reason against it, else 503."""

    async def tell(_: web.Request) -> web.StreamResponse:
        reasons, facts = ask()
        return web.json_response({"ok": not reasons, "reasons": reasons} | facts, status=503 if reasons else 200)

    return tell
