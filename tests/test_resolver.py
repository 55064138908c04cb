"""The resolver: only permitted answers are passed on, and whose fault it is when there is none."""

from __future__ import annotations

import asyncio
import socket

import aiodns
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from bisd.config import EgressConfig
from bisd.egress import AddressRefused, Egress, GuardedResolver, ResolverSilent

EGRESS = Egress(EgressConfig())
PUBLIC = "93.184.215.14"
NO_SUCH_NAME = (
    aiodns.error.ARES_ENOTFOUND,
    aiodns.error.ARES_ENODATA,
    aiodns.error.ARES_ENONAME,
    aiodns.error.ARES_EBADNAME,
    aiodns.error.ARES_EFORMERR,
)
SILENT = (aiodns.error.ARES_ETIMEOUT, aiodns.error.ARES_ECONNREFUSED, aiodns.error.ARES_ESERVFAIL, aiodns.error.ARES_EREFUSED)


class Names(AbstractResolver):
    """A name server that answers as it is told: addresses, an error of c-ares, or nothing at all (None). As aiohttp's does, it
    raises OSError from the DNSError."""

    def __init__(self, **names: tuple[str, ...] | int | None) -> None:
        self.closed = False
        self.asked = 0
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked += 1
        answer = self._names[host]
        if answer is None:
            await asyncio.Event().wait()
        if not isinstance(answer, tuple):
            fault = aiodns.error.DNSError(answer, "as c-ares says")
            raise OSError(None, "DNS lookup failed") from fault
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0) for address in answer]

    async def close(self) -> None:
        self.closed = True


class Ticks:
    """The monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    ticks = Ticks()
    monkeypatch.setattr("bisd.egress.monotonic", ticks)
    return ticks


async def fault_of(resolver: GuardedResolver, name: str) -> type[BaseException]:
    """What is raised, exactly."""
    with pytest.raises(OSError, match=r".") as caught:
        await resolver.resolve(name, 443)
    return caught.type


@pytest.mark.parametrize("answers", [(), (PUBLIC,), (PUBLIC, "2606:4700::1111"), (PUBLIC,) * 32])
async def test_permitted_answers_are_passed_on_unchanged(answers: tuple[str, ...]) -> None:
    """All answers of a name that only has public ones, in their order."""
    resolved = await GuardedResolver(EGRESS, Names(name=answers), 5).resolve("name", 443)
    assert list(answers) == [answer["host"] for answer in resolved]
    assert {443} >= {answer["port"] for answer in resolved}


@pytest.mark.parametrize(
    "answers",
    [
        ("127.0.0.1",),
        (PUBLIC, "10.0.0.1"),
        ("10.0.0.1", PUBLIC),
        (PUBLIC, "169.254.169.254", "2606:4700::1111"),
        (PUBLIC, "::ffff:8.8.8.8"),
        ("fe80::1%eth0",),
        (PUBLIC,) * 33,
    ],
)
async def test_one_forbidden_answer_condemns_the_name(answers: tuple[str, ...]) -> None:
    """Not even the public addresses of such a name are dialled: somebody tries something."""
    assert AddressRefused is await fault_of(GuardedResolver(EGRESS, Names(name=answers), 5), "name")


async def test_closing_closes_the_inner_resolver() -> None:
    """Nothing leaks."""
    inner = Names()
    await GuardedResolver(EGRESS, inner, 5).close()
    assert inner.closed is True


@pytest.mark.parametrize("code", NO_SUCH_NAME)
async def test_a_name_that_does_not_exist_is_at_fault_itself(code: int) -> None:
    """Even with the very first question: a resolver that says so works."""
    assert OSError is await fault_of(GuardedResolver(EGRESS, Names(name=code), 5), "name")


@pytest.mark.parametrize("code", [*SILENT, None])
async def test_silence_to_every_name_is_the_resolver_s(code: int | None) -> None:
    """Nobody has been answered yet: not the receiver is to blame, but our resolver, or the way to it."""
    assert ResolverSilent is await fault_of(GuardedResolver(EGRESS, Names(name=code), 0.01), "name")


@pytest.mark.parametrize("code", SILENT)
@pytest.mark.parametrize(
    ("answer", "fault"),
    [((PUBLIC,), None), (("10.0.0.1",), AddressRefused), *((code, OSError) for code in NO_SUCH_NAME)],
)
async def test_silence_is_the_name_s_while_others_are_answered(
    code: int, answer: tuple[str, ...] | int, fault: type[OSError] | None, ticks: Ticks
) -> None:
    """Within thirty seconds of any answer, whatever it says; then it is the resolver's again, until the next one."""
    resolver = GuardedResolver(EGRESS, Names(silent=code, other=answer), 5)
    for _ in range(2):
        if fault is None:
            await resolver.resolve("other", 443)
        else:
            assert fault is await fault_of(resolver, "other")
        faults = []
        for _ in range(4):
            faults.append(await fault_of(resolver, "silent"))
            ticks.now += 10.1
        assert [OSError, OSError, OSError, ResolverSilent] == faults


async def test_silence_does_not_count_as_an_answer(ticks: Ticks) -> None:
    """A thousand names that are not answered, one a second, do not make the resolver one that works."""
    resolver = GuardedResolver(EGRESS, Names(silent=aiodns.error.ARES_ETIMEOUT, other=(PUBLIC,)), 5)
    await resolver.resolve("other", 443)
    faults = []
    for _ in range(1000):
        ticks.now += 1
        faults.append(await fault_of(resolver, "silent"))
    assert [OSError] * 30 + [ResolverSilent] * 970 == faults


@pytest.mark.timeout(20)
async def test_a_resolver_that_hangs_is_waited_for_with_patience_and_no_longer() -> None:
    """A name that is never answered ends when its patience ends, for each of a hundred that are asked at once; and while
    another name is answered, it is that name's fault."""
    inner = Names(hangs=None, other=(PUBLIC,))
    resolver = GuardedResolver(EGRESS, inner, 0.05)
    async with asyncio.timeout(5):
        faults = await asyncio.gather(*(fault_of(resolver, "hangs") for _ in range(100)))
    await resolver.resolve("other", 443)
    assert ({ResolverSilent}, OSError, 102) == (set(faults), await fault_of(resolver, "hangs"), inner.asked)
