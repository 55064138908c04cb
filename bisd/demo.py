"""The whole thing on one machine: a shop that inserts notifications, the daemon with its pages, and a receiver that verifies
and shows."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time

from bisd import control, db
from bisd.address import Address
from bisd.admin import portal
from bisd.config import Config, HttpConfig
from bisd.receiver import Received, Receiver
from bisd.service import Service

_TEAS = ("Black Tea", "Green Tea", "White Tea", "Oolong", "Rooibos", "Earl Grey")
_FEW = 5
# Seconds that the link to the pages opens them.
_OPENS = 86400


@dataclass(frozen=True, slots=True)
class Shown:
    """A webhook that arrived: what, whether its signatures are right, and seconds from the shop's commit to its arrival."""

    received: Received
    product: str
    seconds: float


class Demo:
    """`show` hears of every webhook that arrived, `open_pages` of the link to the pages, where there are some."""

    def __init__(self, config: Config, dsn: str, show: Callable[[Shown], None], open_pages: Callable[[str], None]) -> None:
        self._config = config
        self._dsn = dsn
        self._show = show
        self._open_pages = open_pages
        self._token = secrets.token_hex(32)
        self._committed: dict[tuple[int, str], asyncio.Future[float]] = {}
        self._arrived = 0
        self._verified = 0
        self._all = asyncio.Event()
        self._wanted = 0
        self._receiver = Receiver(self._receive)

    async def run(self, once: bool, patience: float = 20.0) -> bool:
        """Delivers a few and answers whether all came and were genuine; or, unless `once`, shows the pages and goes on until
        cancelled."""
        with TemporaryDirectory(prefix="bisd-demo-") as directory:
            token_file = Path(directory) / "token"
            token_file.write_text(self._token, encoding="ascii")
            return await self._run(once, patience, token_file)

    async def _run(self, once: bool, patience: float, token_file: Path) -> bool:
        url = await self._receiver.start()
        # Any port that is free: none that a real daemon would want.
        listen = None if once else Address(IPv4Address("127.0.0.1"), 0)
        http = HttpConfig(listen=listen, token_file=token_file)
        service = Service(replace(_reaching(self._config, url), http=http), self._dsn)
        shop = await db.connect(self._dsn)
        try:
            account_id, self._receiver.key = await control.create_account(shop, "Demo Tea Shop", "medium")
            for topic in ("notification/create", "notification/sent"):
                await control.enable_webhook(shop, await control.create_webhook(shop, account_id, topic, url))
            async with asyncio.TaskGroup() as group:
                daemon = group.create_task(service.run())
                await service.ready.wait()
                if service.listens_at is not None:
                    grant = portal.Grant(None, int(time()) + _OPENS)
                    self._open_pages(portal.link(f"http://{service.listens_at}", self._token.encode(), grant))
                try:
                    complete = await self._sell(shop, account_id, once, patience)
                finally:
                    service.stop()
                await daemon
            return complete
        finally:
            await shop.close()
            await self._receiver.stop()

    async def _sell(self, shop: db.Connection, account_id: int, once: bool, patience: float) -> bool:
        self._wanted = 2 * _FEW if once else 0
        try:
            async with asyncio.timeout(patience if once else None):
                sold = 0
                while not once or sold < _FEW:
                    await self._notify(shop, account_id)
                    sold += 1
                    await asyncio.sleep(0.05 if once else random.uniform(0.2, 1.5))
                await self._all.wait()
        except TimeoutError:
            return False
        return self._verified == self._arrived

    async def _notify(self, shop: db.Connection, account_id: int) -> None:
        """A customer waits for a tea, and is told that it is back."""
        notification_id = await shop.fetchval(
            db.query("demo_insert"), account_id, f"customer{random.randrange(1000)}@example.com", random.choice(_TEAS)
        )
        self._commit(notification_id, "notification/create")
        await shop.execute(db.query("demo_sent"), notification_id)
        self._commit(notification_id, "notification/sent")

    def _commit(self, notification_id: int, topic: str) -> None:
        self._moment((notification_id, topic)).set_result(perf_counter())

    def _moment(self, key: tuple[int, str]) -> asyncio.Future[float]:
        """When the shop's transaction ended: its arrival may be noticed before the shop hears of its commit."""
        if key not in self._committed:
            self._committed[key] = asyncio.get_running_loop().create_future()
        return self._committed[key]

    def _receive(self, received: Received) -> None:
        arrived = perf_counter()
        body = json.loads(received.body)
        moment = self._moment((body["notification_id"], received.topic))

        def show(committed: asyncio.Future[float]) -> None:
            del self._committed[body["notification_id"], received.topic]
            self._show(Shown(received, body["product"]["product_title"], max(0.0, arrived - committed.result())))
            self._arrived += 1
            self._verified += received.verified is True
            if self._arrived == self._wanted:
                self._all.set()

        moment.add_done_callback(show)


def _reaching(config: Config, url: str) -> Config:
    """The demo's receiver listens on this machine, without TLS: its address and port are allowed, and nothing else."""
    port = int(url.rsplit(":", 1)[1].strip("/"))
    egress = replace(config.egress, allow_http=True, allow=[ip_network("127.0.0.1/32")], ports=[(port, port)])
    return replace(config, egress=egress)
