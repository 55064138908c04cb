"""Post: whose fault it is when nothing could be sent. What receivers do is test_deliver's and test_life's."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from bisd.config import DeliveryConfig, EgressConfig
from bisd.delivery.post import Post
from bisd.model import Answer, Code, Fault, Message, NoResponse, Refusal
from tests.support.client import no_descriptors

# Nobody listens there; TCP goes to no multicast address, so that it is unreachable from every machine.
LOOPBACK, UNREACHABLE = "https://127.0.0.1:9/", "https://224.0.0.1/"
EGRESS = replace(
    EgressConfig(), allow=[ip_network("127.0.0.0/8"), ip_network("224.0.0.0/8")], ports=[(1, 65535)], allow_http=True
)


def message(url: str, body: bytes = b"{}") -> Message:
    return Message(url, {"Content-Type": "application/json"}, body)


async def answers(*urls: str) -> list[Answer]:
    async with Post(DeliveryConfig(), EGRESS) as post:
        return [await post.send(message(url)) for url in urls]


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_an_address_without_a_route_is_not_our_fault(scheme: str) -> None:
    """While there is a way to others: whoever registers an address that nobody can reach does not make all wait."""
    (came,) = await answers(UNREACHABLE.replace("https", scheme))
    assert Code.CONNECT == (came.code if isinstance(came, NoResponse) else None)


async def test_without_descriptors_it_is_our_fault() -> None:
    """As long as no socket can be opened; with descriptors again, what fails is the receiver's again."""
    async with Post(DeliveryConfig(), EGRESS) as post:
        with no_descriptors():
            without = [await post.send(message(LOOPBACK)) for _ in range(3)]
        then = await post.send(message(LOOPBACK))
    assert [Fault(Code.NETWORK)] * 3 == without
    assert Code.CONNECT == (then.code if isinstance(then, NoResponse) else None)


async def test_a_refused_connection_is_the_receiver_s_fault() -> None:
    """There is a way to it, and nobody listens."""
    (answer,) = await answers(LOOPBACK)
    assert Code.CONNECT == (answer.code if isinstance(answer, NoResponse) else None)


async def test_what_may_not_be_sent_is_refused() -> None:
    """An address that is not permitted, though there is no way to it either."""
    async with Post(DeliveryConfig(), EGRESS) as post:
        assert Refusal(Code.REFUSED_URL) == await post.send(message("https://225.0.0.1/"))
