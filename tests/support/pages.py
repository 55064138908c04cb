"""A daemon with its pages, and who looks at them: two shops, each with webhooks, events and what came of them."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import trustme

from bisd.admin.pages.gate import COOKIE, FIELD
from bisd.admin.portal import Grant, Signer, link
from bisd.config import Config
from bisd.service import Service
from tests.support.daemon import configure
from tests.support.face import LOOPBACK, Face, Reply, facing
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually

TOKEN = "4f" * 32


@dataclass
class Stall:
    """A shop with a webhook that is on, and an event that was delivered to it."""

    shop: Shop
    webhook_id: int
    event_id: int

    @property
    def account_id(self) -> int:
        return self.shop.account_id


@dataclass
class House:
    """`stalls`: one's, and another's."""

    dsn: str
    service: Service
    face: Face
    receiver: Receiver
    stalls: tuple[Stall, Stall]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.face.port}"

    def link(self, account_id: int | None, seconds: int = 3600) -> str:
        return link(self.url, TOKEN.encode(), Grant(account_id, int(time.time()) + seconds))

    def visitor(self, account_id: int | None) -> Visitor:
        """With a session as any other."""
        signer = Signer(TOKEN.encode(), "session")
        return Visitor(self.face, signer.sign(Grant(account_id, int(time.time()) + 3600), "nonce"))


class Visitor:
    """Asks as a browser would, with this cookie, or none."""

    def __init__(self, face: Face, cookie: str | None) -> None:
        self._face = face
        self._cookie = cookie
        self.csrf = Signer(TOKEN.encode(), "session").bind(f"{FIELD} {cookie}")

    async def get(self, path: str, *headers: str) -> Reply:
        return await self._face.get(path, *self._cookies(), *headers)

    async def post(self, path: str, form: Mapping[str, str], *headers: str, csrf: str | None = None) -> Reply:
        """`csrf`: what takes the place of the session's own; '': nothing does."""
        token = self.csrf if csrf is None else csrf
        return await self.send(path, urlencode(dict(form) | ({FIELD: token} if token else {})).encode(), *headers)

    async def send(
        self, path: str, body: bytes, *headers: str, content_type: str = "application/x-www-form-urlencoded"
    ) -> Reply:
        lines = [
            f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", f"Content-Length: {len(body)}",
            "Connection: close", *self._cookies(), *headers,
        ]  # fmt: skip
        return await self._face.ask("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body)

    def _cookies(self) -> list[str]:
        return [] if self._cookie is None else [f"Cookie: {COOKIE}={self._cookie}"]


def text_of(reply: Reply) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", reply.body.decode()).split())


@asynccontextmanager
async def opened(dsn: str, authority: trustme.CA, ca_file: Path, token_file: Path | None) -> AsyncIterator[House]:
    """A daemon that delivers, and shows pages."""
    receiver = Receiver(authority)
    await receiver.start()
    config: Config = configure(ca_file)
    try:
        async with facing(dsn, config, within=300, token_file=token_file, listen=LOOPBACK) as (service, face):
            await service.ready.wait()
            stalls = [await _open_stall(dsn, receiver) for _ in range(2)]
            try:
                yield House(dsn, service, face, receiver, (stalls[0], stalls[1]))
            finally:
                for stall in stalls:
                    stall.shop.connection.terminate()
    finally:
        await receiver.stop()


async def _open_stall(dsn: str, receiver: Receiver) -> Stall:
    shop = await Shop.open(dsn)
    webhook_id = await shop.subscribe("notification/create", receiver.url)
    await shop.notify()
    query = "select event_id from bisd.attempt where webhook_id = $1 and verdict = 'delivered'"

    async def is_delivered() -> bool:
        return await shop.connection.fetchval(query, webhook_id) is not None

    await eventually(is_delivered)
    return Stall(shop, webhook_id, await shop.connection.fetchval(query, webhook_id))
