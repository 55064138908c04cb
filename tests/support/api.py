"""The API of a daemon that runs beside the tests, in a thread with a loop of its own, on a database of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import asyncpg
import trustme
import uvloop

from bisd.address import Address
from bisd.config import HttpConfig
from bisd.service import Service
from tests.support.daemon import configure
from tests.support.face import LOOPBACK, Reply
from tests.support.postgres import Server
from tests.support.receiver import Receiver

Result = TypeVar("Result")

OPERATOR = "0f" * 32
# What the daemon's login is here: no more than it needs for the API.
_ROLE = "bisd_test_api"
_MAKE_ROLE = f"""
    do $$ begin
        if not exists (select from pg_roles where rolname = '{_ROLE}') then
            create role {_ROLE} in role bisd_daemon, bisd_admin;
        end if;
    end $$
"""


class Told(Reply):
    """An answer of the API."""

    @property
    def detail(self) -> str:
        """Of a problem, which it is in form too."""
        assert "application/problem+json" == self.headers["Content-Type"]
        assert self.status == self.json["status"]
        return str(self.json["detail"])


class Api:
    def __init__(self, dsn: str, port: int, receiver: Receiver, run: Callable[[Awaitable[Any]], Any]) -> None:
        self.dsn = dsn
        self.port = port
        self.receiver = receiver
        self._run = run

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        given: object = None,
        *,
        token: str | None = OPERATOR,
        body: bytes | None = None,
        **headers: str,
    ) -> Told:
        """Below /api/v1. `given` is sent as JSON, `body` as it is; names of headers have _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if given is not None:
            body = json.dumps(given).encode()
        if body is not None:
            sent = {"Content-Type": "application/json"} | sent
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, f"/api/v1{path}", body, sent)
            answer = connection.getresponse()
            return Told(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        """Rows, asked for as the owner of the schema."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await connection.fetch(statement, *arguments)
            finally:
                await connection.close()

        found: list[Any] = self._run(ask())
        return found

    def account(self, plan: str = "medium") -> int:
        """A new one."""
        return int(self.sql("select id from bisd.create_account('Tea Shop', $1)", plan)[0]["id"])

    def token(self, account_id: int) -> str:
        return str(self.sql("select token from bisd.create_token($1, 'test', null)", account_id)[0]["token"])

    def webhook(self, account_id: int, topic: str = "order/paid") -> int:
        """A new one, switched on, to the receiver."""
        row = self.sql("select bisd.create_webhook($1, $2, $3) as id", account_id, topic, self.receiver.url)[0]
        self.sql("select bisd.enable_webhook($1)", row["id"])
        return int(row["id"])

    def eventually(self, question: Callable[[], bool]) -> None:
        """Asks until the answer is yes."""

        async def ask() -> None:
            async with asyncio.timeout(20):
                while not await asyncio.to_thread(question):
                    await asyncio.sleep(0.01)

        asyncio.run(ask())


@contextmanager
def serving(server: Server, authority: trustme.CA, directory: Path) -> Iterator[Api]:
    """A daemon that is ready; it delivers to a receiver."""
    loop = uvloop.new_event_loop()
    thread = Thread(target=loop.run_forever, name="api")
    thread.start()

    def run(what: Awaitable[Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(_awaited(what), loop).result(60)

    daemon = _Daemon(server, authority, directory)
    try:
        running = asyncio.run_coroutine_threadsafe(daemon.run(), loop)
        service, dsn = run(daemon.ready())
        try:
            assert isinstance(service.listens_at, Address)
            yield Api(dsn, service.listens_at.port, daemon.receiver, run)
        finally:
            loop.call_soon_threadsafe(service.stop)
            running.result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Daemon:
    def __init__(self, server: Server, authority: trustme.CA, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._started = asyncio.Event()
        self.receiver = Receiver(authority)
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        (directory / "token").write_text(OPERATOR)

    async def run(self) -> None:
        await self.receiver.start()
        self._dsn = await self._server.create()
        owner = await asyncpg.connect(self._dsn)
        await owner.execute(_MAKE_ROLE)
        await owner.close()
        http = HttpConfig(listen=LOOPBACK, token_file=self._directory / "token")
        config = replace(configure(self._directory / "ca.pem"), http=http)
        self._service = Service(config, f"{self._dsn}&role={_ROLE}")
        self._started.set()
        try:
            await self._service.run()
        finally:
            await self.receiver.stop()

    async def ready(self) -> tuple[Service, str]:
        await self._started.wait()
        await self._service.ready.wait()
        return self._service, self._dsn


async def _awaited(what: Awaitable[Result]) -> Result:
    return await what
