"""A local receiver that shows and verifies what comes in: what a merchant's endpoint does, in a few lines."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time

from aiohttp import web

from bisd.delivery.message import sign

_TOLERANCE = 300
_MAX_BODY = 2 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """One request. `verified` is None where no key is known to verify it with."""

    topic: str
    webhook_id: str
    attempt: str
    body: bytes
    verified: bool | None
    at: float = field(default_factory=time)


class Receiver:
    """Answers every POST with `status`, and tells `show` what it was."""

    def __init__(self, show: Callable[[Received], None], status: int = 200, key: str | None = None) -> None:
        self.key = key
        self._show = show
        self._status = status
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> str:
        """Listens on the loopback address; answers the URL. Port 0: any that is free. Raises OSError if it is taken."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, bound = self._runner.addresses[0][:2]
        return f"http://{host}:{bound}/"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = request.headers
        verified = verify(self.key, headers, body) if self.key is not None else None
        self._show(
            Received(
                headers.get("X-BIS-Topic", ""),
                headers.get("webhook-id", ""),
                headers.get("X-BIS-Attempt", ""),
                body,
                verified,
            )
        )
        return web.Response(status=self._status)


def verify(key: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Both signatures, and a timestamp of the last five minutes."""
    expected = sign(key, body)
    timestamp = headers.get("webhook-timestamp", "")
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode() + body
    standard = "v1," + sign(key, signed)
    return (
        hmac.compare_digest(headers.get("X-BIS-Signature", "").encode(), expected.encode())
        and any(hmac.compare_digest(one.encode(), standard.encode()) for one in headers.get("webhook-signature", "").split())
        and timestamp.isascii()
        and timestamp.isdigit()
        and abs(time() - int(timestamp)) <= _TOLERANCE
    )
