"""The table of URLs, hostile and good, at each of the three doors: the command line, the database and the delivery."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from click.testing import CliRunner
from yarl import URL

from bisd import cli, db, resolver
from bisd.config import DeliveryConfig, EgressConfig
from bisd.delivery.post import Post
from bisd.egress import Egress
from bisd.errors import UrlRefusedError
from bisd.model import Code, Message, NoResponse, Refusal
from tests.support.urls import FORBIDDEN, GOOD, HOSTILE, MALFORMED, PUBLIC, Answers

DEFAULT = Egress(EgressConfig())
# Long ones by their reason; else a test's name would be a page.
IDS = {url: url if len(url) < 100 else why[:60] for url, why in (HOSTILE | GOOD).items()}


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A configuration whose database nobody can reach."""
    file = tmp_path / "nowhere.toml"
    file.write_text('[database]\ndsn = "postgresql://127.0.0.1:1/nowhere"\n')
    return file


@asynccontextmanager
async def posting(monkeypatch: pytest.MonkeyPatch, names: Answers) -> AsyncIterator[tuple[Post, list[str]]]:
    """A client with that name server, and the addresses that it would have dialled, had it been let."""
    dialled: list[str] = []
    judge = Egress.open_socket

    def open_socket(guard: Egress, info: aiohttp.AddrInfoType) -> socket.socket:
        judge(guard, info).close()
        dialled.append(str(info[4][0]))
        raise OSError(errno.ECONNREFUSED, "no network here")

    monkeypatch.setattr(Egress, "open_socket", open_socket)
    monkeypatch.setattr(resolver, "guarded", lambda guard, patience: resolver.GuardedResolver(guard, lambda: names, patience))
    async with Post(DeliveryConfig(), EgressConfig()) as post:
        yield post, dialled


def test_the_table_is_large_enough() -> None:
    """At least 150 hostile URLs, each with a reason, and 30 good ones; none is both."""
    assert (True, True, set()) == (len(HOSTILE) >= 150, len(GOOD) >= 30, HOSTILE.keys() & GOOD.keys())
    assert [] == [url for url, why in HOSTILE.items() if not why]


@pytest.mark.parametrize("raw", HOSTILE, ids=IDS.get)
def test_a_hostile_url_is_refused(raw: str) -> None:
    """In its raw form, before any other parser sees it, and with a reason, which does not quote it."""
    with pytest.raises(UrlRefusedError) as refused:
        DEFAULT.permit_url(raw)
    assert str(refused.value).startswith("The URL is refused: ")
    assert len(raw) < 8 or raw not in str(refused.value)


@pytest.mark.parametrize("raw", GOOD, ids=IDS.get)
def test_a_good_url_is_permitted_as_it_is_written(raw: str) -> None:
    """Path and query are requested byte for byte, of the host that was written, less a dot at its end."""
    permitted = DEFAULT.permit_url(raw)
    assert GOOD[raw] == permitted.target
    authority = raw.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]
    expected = authority.removesuffix(":443").removesuffix(".").lower()
    assert expected == (permitted.url.host_port_subcomponent or "").lower()


def test_subscribing_to_a_hostile_url_fails(nowhere: Path) -> None:
    """`bisd webhook add` and `set` refuse it, every eighth here, before they look for a database."""
    runner = CliRunner()
    for raw in list(HOSTILE)[::8]:
        for arguments in (["add", "1", "t", raw], ["set", "1", f"url={raw}"]) if raw else (["add", "1", "t", raw],):
            result = runner.invoke(cli.bisd, ["--config", str(nowhere), "webhook", arguments[0], "--", *arguments[1:]])
            assert (UrlRefusedError, raw) == (type(result.exception), raw)


def test_subscribing_to_a_good_url_gets_as_far_as_the_database(nowhere: Path) -> None:
    """The same commands: what stops them is not the URL."""
    runner = CliRunner()
    for raw in list(GOOD)[::4]:
        result = runner.invoke(cli.bisd, ["--config", str(nowhere), "webhook", "add", "--", "1", "t", raw])
        assert ("ServerUnfitError", raw) == (type(result.exception).__name__, raw)


async def test_the_database_refuses_what_it_can_and_nothing_that_is_good(dsn: str) -> None:
    """bisd.url_fault has a reason for everything malformed and none for anything good, and an answer to all else."""
    connection = await db.connect(dsn)
    try:
        answers = {
            raw: await connection.fetchval("select bisd.url_fault($1)", raw) for raw in HOSTILE | GOOD if "\0" not in raw
        }
        for raw in (raw for raw in HOSTILE if "\0" in raw):
            with pytest.raises(asyncpg.CharacterNotInRepertoireError):
                await connection.fetchval("select bisd.url_fault($1)", raw)
    finally:
        await connection.close()
    assert [] == [raw for raw in MALFORMED if raw in answers and answers[raw] is None]
    assert [] == [(raw, answers[raw]) for raw in GOOD if answers[raw] is not None]
    assert FORBIDDEN.keys() <= answers.keys()


async def test_delivering_to_a_hostile_url_dials_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it came into the database: refused for good, without a question to the DNS and without a socket."""
    names = Answers(PUBLIC)
    async with posting(monkeypatch, names) as (post, dialled):
        answers = {raw: await post.send(Message(raw, {}, b"{}")) for raw in HOSTILE}
    assert {} == {raw: answer for raw, answer in answers.items() if answer != Refusal(Code.REFUSED_URL)}
    assert ([], []) == (names.asked, dialled)


async def test_delivering_to_a_good_url_dials_its_address_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The literal, or what the DNS answered."""
    async with posting(monkeypatch, Answers(PUBLIC)) as (post, dialled):
        for raw in GOOD:
            dialled.clear()
            answer = await post.send(Message(raw, {}, b"{}"))
            host = URL(raw, encoded=True).raw_host or ""
            literal = ":" in host or host.rpartition(".")[2].isdigit()
            assert ([host if literal else PUBLIC], raw) == (dialled, raw)
            assert isinstance(answer, NoResponse)
            assert Code.CONNECT == answer.code


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00:ec2::254", "::ffff:8.8.8.8", "not one"])
async def test_a_name_that_answers_otherwise_at_delivery_is_refused(inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: public when the merchant subscribed and when the last event went out, inside now, public again later."""
    names = Answers(PUBLIC)
    message = Message("https://rebinding.example.com/", {}, b"{}")
    async with posting(monkeypatch, names) as (post, dialled):
        assert message.url == str(DEFAULT.permit_url(message.url).url)
        assert isinstance(await post.send(message), NoResponse)
        names.addresses = (inside,)
        assert Refusal(Code.REFUSED_ADDRESS) == await post.send(message)
        names.addresses = (PUBLIC, inside)
        assert Refusal(Code.REFUSED_ADDRESS) == await post.send(message)
        assert [PUBLIC] == dialled
        names.addresses = (PUBLIC,)
        assert isinstance(await post.send(message), NoResponse)
    assert [PUBLIC, PUBLIC] == dialled


async def test_a_name_without_an_address_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty answer permits nothing, and is the name's fault."""
    async with posting(monkeypatch, Answers()) as (post, dialled):
        answer = await post.send(Message("https://example.com/", {}, b"{}"))
    assert isinstance(answer, NoResponse)
    assert (Code.DNS, []) == (answer.code, dialled)
