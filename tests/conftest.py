"""Fixtures: a real PostgreSQL, a real receiver over real TLS, and daemons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import trustme
import uvloop
from hypothesis import settings

from bisd import db, log, systemd
from tests.support import hostile as hostile_module
from tests.support.api import Api, serving
from tests.support.cli import Run
from tests.support.postgres import Server
from tests.support.receiver import Receiver
from tests.support.shop import Shop

# How long an example takes depends on what else the machine has to do.
settings.register_profile("bisd", deadline=None)
settings.load_profile("bisd")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the daemon runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _logging() -> None:
    log.configure("warning", "json")


@pytest.fixture(autouse=True, scope="session")
def _words_for_systemd() -> Iterator[None]:
    """The daemon's socket for them stays open for as long as its process does."""
    yield
    systemd._datagrams().close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server(in_memory=True)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
async def dsn(server: Server) -> AsyncIterator[str]:
    dsn = await server.create()
    yield dsn
    await server.drop(dsn)


@pytest.fixture
async def connect(dsn: str) -> AsyncIterator[Callable[[], Awaitable[db.Connection]]]:
    """Opens sessions of the application's, which are closed when the test ends, however it ends."""
    connections: list[db.Connection] = []

    async def connect() -> db.Connection:
        connections.append(await asyncpg.connect(dsn))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.terminate()


@pytest.fixture
async def shop(dsn: str) -> AsyncIterator[Shop]:
    shop = await Shop.open(dsn)
    yield shop
    await shop.connection.close()


@pytest.fixture
async def receiver(authority: trustme.CA) -> AsyncIterator[Receiver]:
    receiver = Receiver(authority)
    await receiver.start()
    yield receiver
    await receiver.stop()


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hostile_module.Hostile]:
    with hostile_module.serving(tmp_path_factory.mktemp("hostile")) as receiver:
        yield receiver


@pytest.fixture(scope="session")
def api(server: Server, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(server, authority, tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def bisd(dsn: str, tmp_path: Path) -> Run:
    """The command line, on this test's database."""
    file = tmp_path / "shop.toml"
    file.write_text(f'[database]\ndsn = "{dsn}"\n')
    return Run(file)
