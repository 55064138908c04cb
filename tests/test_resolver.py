"""Egress, where the connection is made: what the DNS answers, and the last look at an address before it is dialled."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import aiodns
import pytest
from aiohttp.abc import ResolveResult

from bisd.config import EgressConfig
from bisd.egress import AddressRefused, Egress
from bisd.resolver import GuardedResolver, ResolverSilent
from tests.support.urls import PUBLIC, Answers

DEFAULT = Egress(EgressConfig())
PROXY = "10.9.9.9"
IPV6 = "2606:4700::1111"


def guarded(names: Answers, guard: Egress = DEFAULT, patience: float = 5) -> GuardedResolver:
    return GuardedResolver(guard, lambda: names, patience)


def dial(guard: Egress, address: str, port: int = 443) -> bool:
    """Whether there is a socket for it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        guard.open_socket((family, socket.SOCK_STREAM, 0, "", (address, port))).close()
    except AddressRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("answers", "dialled"),
    [
        ((PUBLIC,), [0]),
        ((PUBLIC, IPV6), [0, 1]),
        ((IPV6, PUBLIC, PUBLIC, IPV6, IPV6, PUBLIC), [0, 1, 2, 3]),
        ((PUBLIC,) * 32, [0, 1]),
    ],
)
async def test_permitted_answers_are_passed_on_unchanged(answers: tuple[str, ...], dialled: list[int]) -> None:
    """Of a name that only has public ones, in their order; two of each family, because each is one more handshake."""
    resolved = await guarded(Answers(*answers)).resolve("example.com", 443)
    assert [answers[number] for number in dialled] == [answer["host"] for answer in resolved]
    assert {443} == {answer["port"] for answer in resolved}


@pytest.mark.parametrize(
    "answers",
    [
        ("127.0.0.1",),
        (PUBLIC, "10.0.0.1"),
        ("10.0.0.1", PUBLIC),
        (PUBLIC, "169.254.169.254", IPV6),
        (PUBLIC, "::ffff:8.8.8.8"),
        (IPV6, "64:ff9b::a9fe:a9fe"),
        (IPV6, "2606:4700::5efe:7f00:1"),
        ("fe80::1%eth0",),
        (PUBLIC,) * 33,
        (PUBLIC, "2130706433"),
        (PUBLIC, ""),
        (PUBLIC, "localhost"),
    ],
)
async def test_one_forbidden_answer_condemns_the_name(answers: tuple[str, ...]) -> None:
    """Not even the public addresses of such a name are dialled: somebody tries something."""
    with pytest.raises(AddressRefused):
        await guarded(Answers(*answers)).resolve("example.com", 443)


async def test_no_answer_is_no_permission() -> None:
    """A name without an address is a name that cannot be resolved."""
    with pytest.raises(OSError, match="no address") as raised:
        await guarded(Answers()).resolve("example.com", 443)
    assert OSError is type(raised.value)


async def test_closing_closes_the_inner_resolver() -> None:
    """Nothing leaks."""
    inner = Answers()
    await guarded(inner).close()
    assert inner.closed is True


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "::1", "fe80::1%1", "::ffff:127.0.0.1", "169.254.169.254", "2606:4700::5efe:a00:1"],
)
def test_no_socket_for_a_forbidden_address(address: str) -> None:
    """The last look, at the address that is dialled, whether it came from a name or from the URL."""
    assert dial(DEFAULT, address) is False


def test_socket_for_a_permitted_address() -> None:
    """A socket of the kind that was asked for."""
    with DEFAULT.open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (PUBLIC, 443))) as opened:
        assert (socket.AF_INET, socket.SOCK_STREAM) == (opened.family, opened.type)


@pytest.mark.parametrize("proxy", [PROXY, "[fd00::9]"])
def test_only_a_proxy_given_by_address_is_dialled(proxy: str) -> None:
    """On its port; nothing else, however public."""
    guard = Egress(EgressConfig(proxy=f"http://{proxy}:3128"))
    address = proxy.strip("[]")
    assert [True, False, False, False] == [
        dial(guard, address, 3128),
        dial(guard, address, 443),
        dial(guard, PUBLIC, 443),
        dial(guard, PUBLIC, 3128),
    ]


async def test_only_a_proxy_given_by_name_is_resolved_and_dialled() -> None:
    """It may be inside. What it answered a moment ago may still be dialled: a connection to it may be about to be made."""
    guard = Egress(EgressConfig(proxy="http://Proxy.Internal:3128"))
    names = Answers(PROXY)
    resolver = guarded(names, guard)
    assert dial(guard, PROXY, 3128) is False
    assert [PROXY] == [answer["host"] for answer in await resolver.resolve("proxy.internal", 3128)]
    names.addresses = ("10.9.9.10",)
    await resolver.resolve("proxy.internal.", 3128)
    assert [True, True, False] == [dial(guard, PROXY, 3128), dial(guard, "10.9.9.10", 3128), dial(guard, PUBLIC, 3128)]
    for other in ("example.com", "internal", "xproxy.internal"):
        with pytest.raises(AddressRefused):
            await resolver.resolve(other, 443)
    assert dial(guard, PUBLIC, 443) is False


class Failing(Answers):
    """A name server whose library raises that; None: it says nothing, ever. For example.com alone, or for every name; for
    others there is no such name."""

    def __init__(self, code: int | None, alone: bool) -> None:
        super().__init__()
        self._code = code
        self._alone = alone

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        self.asked.append(host)
        code = aiodns.error.ARES_ENOTFOUND if self._alone and host != "example.com" else self._code
        if code is None:
            raise TimeoutError
        raise OSError(None, "DNS lookup failed") from aiodns.error.DNSError(code, "of whatever text")


SILENT = [aiodns.error.ARES_ESERVFAIL, aiodns.error.ARES_ETIMEOUT, None]


@pytest.mark.parametrize("code", [aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA])
async def test_no_such_name_is_the_names_fault(code: int) -> None:
    """The resolver works: it said so. Nobody else is asked."""
    names = Failing(code, alone=False)
    with pytest.raises(OSError, match="cannot be resolved") as raised:
        await guarded(names).resolve("example.com", 443)
    assert (OSError, ["example.com"]) == (type(raised.value), names.asked)


@pytest.mark.parametrize("code", SILENT)
async def test_silence_about_one_name_is_the_names_fault(code: int | None) -> None:
    """Whoever has a name whose servers are silent makes nobody else wait: another name is asked, and that one is answered."""
    with pytest.raises(OSError, match="cannot be resolved") as raised:
        await guarded(Failing(code, alone=True)).resolve("example.com", 443)
    assert OSError is type(raised.value)


@pytest.mark.parametrize("code", SILENT)
async def test_silence_about_every_name_is_the_resolvers_fault(code: int | None) -> None:
    """Ours, or the way to it."""
    with pytest.raises(ResolverSilent):
        await guarded(Failing(code, alone=False)).resolve("example.com", 443)


class Clock:
    """The monotonic clock, as the test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("bisd.resolver.monotonic", clock)
    return clock


def _replace(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_text("nameserver 192.0.2.2\n")
    os.replace(other, file)


def _rewrite(file: Path) -> None:
    file.write_text("nameserver 192.0.2.2\n")
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize("change", [_replace, _rewrite, Path.unlink])
async def test_other_name_servers_are_asked_once_the_configuration_names_them(
    change: Callable[[Path], None], clock: Clock, tmp_path: Path
) -> None:
    """Within ten seconds, however the file was changed; the former channel stays until the end, for what it was asked."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    made: list[Answers] = []

    def make() -> Answers:
        made.append(Answers(f"93.184.216.{len(made)}"))
        return made[-1]

    async def ask() -> str:
        return (await resolver.resolve("example.com", 443))[0]["host"]

    resolver = GuardedResolver(DEFAULT, make, 5, file)
    clock.now += 11
    assert "93.184.216.0" == await ask()
    change(file)
    clock.now += 9
    assert "93.184.216.0" == await ask()
    clock.now += 2
    assert "93.184.216.1" == await ask()
    clock.now += 11
    assert "93.184.216.1" == await ask()
    assert [False, False] == [names.closed for names in made]
    await resolver.close()
    assert [True, True] == [names.closed for names in made]


def test_every_answer_is_an_address() -> None:
    """What stands for public here is."""
    assert (True, True) == (DEFAULT.permits(ip_address(PUBLIC)), DEFAULT.permits(ip_address(IPV6)))
