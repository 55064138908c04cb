"""The HTTP face of a daemon: one application, one socket, and whoever has routes adds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web

from bisd import log
from bisd.address import Address
from bisd.admin.connection import Connection
from bisd.admin.guard import by_our_name, secure
from bisd.admin.listening import listening
from bisd.admin.problem import telling
from bisd.config import HttpConfig

# Requests that are being answered when the daemon ends.
_PATIENCE = 1.0


@asynccontextmanager
async def serving(config: HttpConfig, routes: Iterable[web.RouteDef]) -> AsyncIterator[Address | Path | None]:
    """Answers where the configuration says, until the block ends; the place, of which the port is the one that was bound.
    Raises ConfigurationError, before anything else is done, if that place cannot be had."""
    if config.listen is None:
        yield None
        return
    app = web.Application(middlewares=[telling, by_our_name(config)])
    app.add_routes(routes)
    app.on_response_prepare.append(_secure)
    with listening(config.listen) as own:
        place = config.listen
        if isinstance(place, Address):
            place = Address(place.host, own.getsockname()[1])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE)
        await runner.setup()
        assert runner.server is not None
        server = await asyncio.get_running_loop().create_server(partial(Connection, runner.server), sock=own)
        log.get().info(log.Event.HTTP_LISTENING, address=str(place))
        try:
            yield place
        finally:
            server.close()
            await runner.cleanup()


async def _secure(_: web.Request, answer: web.StreamResponse) -> None:
    secure(answer.headers)
