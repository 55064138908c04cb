"""Egress, whatever comes: any text, any address, any answer of the DNS. What is public is written out here a second time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bisd import db
from bisd.config import DeliveryConfig, EgressConfig
from bisd.delivery.post import Post
from bisd.egress import AddressRefused, Egress
from bisd.errors import UrlRefusedError
from bisd.model import Message, Response
from bisd.resolver import GuardedResolver
from tests.support.urls import HOSTILE, Answers
from tests.support.wire import Wire

DEFAULT = Egress(EgressConfig())
PUBLIC = "93.184.216.34"

# First and last octets of what is not for everybody, by the IANA registries of special-purpose addresses, of multicast and of
# what is reserved (2026), and by the documents of Azure; not by the table that is under test.
SPECIAL_IPV4 = """
    0.0.0.0 0.255.255.255 / 10.0.0.0 10.255.255.255 / 100.64.0.0 100.127.255.255 / 127.0.0.0 127.255.255.255
    168.63.129.16 168.63.129.16 / 169.254.0.0 169.254.255.255 / 172.16.0.0 172.31.255.255 / 192.0.0.0 192.0.0.255
    192.0.2.0 192.0.2.255 / 192.31.196.0 192.31.196.255 / 192.52.193.0 192.52.193.255 / 192.88.99.0 192.88.99.255
    192.168.0.0 192.168.255.255 / 192.175.48.0 192.175.48.255 / 198.18.0.0 198.19.255.255 / 198.51.100.0 198.51.100.255
    203.0.113.0 203.0.113.255 / 224.0.0.0 255.255.255.255
""".replace("/", " ").split()
# Global unicast is 2000::/3 (RFC 4291); in it: 2001::/23 with Teredo, AMT, ORCHID and more; documentation; 6to4; AS112.
SPECIAL_IPV6 = """
    :: 1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff / 2001:: 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff
    2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff / 2002:: 2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff
    2620:4f:8000:: 2620:4f:8000:ffff:ffff:ffff:ffff:ffff / 3fff:: 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff
    4000:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
""".replace("/", " ").split()
EDGES = [ip_address(text) for text in SPECIAL_IPV4 + SPECIAL_IPV6]
RANGES = list(zip(map(int, EDGES[::2]), map(int, EDGES[1::2]), [edge.version for edge in EDGES[::2]], strict=True))
Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    if any(first <= int(address) <= last and address.version == version for first, last, version in RANGES):
        return False
    return address.version == 4 or address.packed[8:12] not in (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")


def near(edge: Address, offset: int) -> Address:
    return type(edge)((int(edge) + offset) % 2**edge.max_prefixlen)


def embedding(prefix: bytes, address: IPv4Address) -> Address:
    return IPv6Address((prefix + address.packed).ljust(16, b"\0"))


PREFIXES = [
    bytes(12), bytes(10) + b"\xff\xff", bytes.fromhex("0064ff9b") + bytes(8), bytes.fromhex("0064ff9b0001") + bytes(6),
    bytes.fromhex("2002"), bytes.fromhex("20010000"), bytes.fromhex("260647000000000000005efe"),
    bytes.fromhex("2606470000000000" + "02005efe"), bytes.fromhex("fe80000000000000" + "00005efe"),
    bytes.fromhex("26064700") + bytes(8),
]  # fmt: skip
ADDRESSES: st.SearchStrategy[Address] = st.one_of(
    st.ip_addresses(),
    st.builds(near, st.sampled_from(EDGES), st.integers(-2, 2)),
    st.builds(embedding, st.sampled_from(PREFIXES), st.ip_addresses(v=4)),
    st.ip_addresses(v=6, network=ip_network("2000::/3")),
)


def spellings(address: Address) -> list[str]:
    """How a URL may say it, canonical or not."""
    if isinstance(address, IPv6Address):
        tail = str(IPv4Address(address.packed[12:]))
        return [f"[{address}]", f"[{address.exploded}]", f"[{str(address).upper()}]", f"[{address.exploded[:30]}{tail}]"]
    a, b, c, d = address.packed
    return [
        str(address), str(int(address)), hex(int(address)), f"0{int(address):o}", f"{a}.{int(address) & 0xFFFFFF}",
        f"{a:03}.{b}.{c}.{d}", f"{a:#x}.{b}.{c}.{d}", f"0{a:o}.{b}.{c}.{d}", f"{address}.", f"[::ffff:{address}]",
        f"[{address}]",
        f"{a}%2e{b}.{c}.{d}", str(address).replace(".", "\u3002"), "".join(chr(ord(digit) + 0xFEE0) for digit in str(address)),
    ]  # fmt: skip


PIECES = st.sampled_from(
    ["https://", "HTTPS://", "http://", "[", "]", "@", ":", "/", "?", "#", "%", "%2e", "%00", "\\", ".", "..", "127.0.0.1",
     "::", "::1",
      "::ffff:", "8.8.8.8", "2606:4700::1", "example.com", "localhost", "xn--", "xn--bcher-kva", "-", "_", "*", " ", "\t",
     "\r\n", "\0", "é", "\uff11", "\u3002", "\ud800", "443", ":443", ":0443", "0x7f", "0", "1", "a" * 64]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(),
    st.lists(PIECES, max_size=9).map("".join),
    st.lists(PIECES, max_size=9).map("".join).map("https://".__add__),
    st.text().map("https://{}/".format),
    st.from_regex(r"https://[a-z0-9.:\[\]%@-]{0,30}(:[0-9]{0,6})?(/[ -~]{0,9})?", fullmatch=True),
    st.sampled_from(sorted(HOSTILE, key=len)[:-4]),
)


@settings(max_examples=1000)
@given(address=ADDRESSES)
def test_an_address_is_permitted_if_and_only_if_it_is_public(address: Address) -> None:
    """By both tables, everywhere, and above all at their edges and in what embeds IPv4."""
    assert is_public(address) is DEFAULT.permits(address)


@settings(max_examples=500)
@given(address=ADDRESSES, data=st.data())
def test_a_literal_is_permitted_only_if_it_is_public(address: Address, data: st.DataObject) -> None:
    """However it is spelt; what is permitted is dialled as it was judged."""
    host = data.draw(st.sampled_from(spellings(address)))
    try:
        permitted = DEFAULT.permit_url(f"https://{host}/")
    except UrlRefusedError:
        assert host != (f"[{address}]" if address.version == 6 else str(address)) or not is_public(address)
        return
    assert (address, True) == (ip_address(permitted.url.raw_host or ""), is_public(address))


@settings(max_examples=1500)
@given(raw=TEXTS)
@example(raw="https://xn--" + "9" * 59 + ".com/")
@example(raw="https://" + "[" * 2000)
@example(raw="https://example.com:" + "\u0664" * 3)
def test_any_text_is_permitted_or_refused(raw: str) -> None:
    """UrlRefusedError and nothing else; what passes is HTTPS to a public host on a permitted port, without a user."""
    try:
        url, target = DEFAULT.permit_url(raw)
    except UrlRefusedError:
        return
    assert ("https", None, None, True) == (url.scheme, url.user, url.password, url.port in (443, 8443))
    host = (url.raw_host or "").lower()
    assert raw.lower().startswith(f"https://{host}") or raw.lower().startswith(f"https://[{host}]")
    if ":" in host or host.rpartition(".")[2].isdigit():
        assert is_public(ip_address(host))
    else:
        assert "." in host.rstrip(".")
    sent = raw.partition("#")[0]
    assert sent.endswith(target) or sent.endswith(target[1:])


@settings(max_examples=500)
@given(
    answers=st.lists(st.one_of(ADDRESSES.map(str), ADDRESSES.map(str), st.text(max_size=8)), max_size=4),
    good=st.integers(0, 33),
)
def test_any_answer_of_the_dns_is_all_public_or_none_at_all(answers: list[str], good: int) -> None:
    """What the resolver gives back is some of that, public to the last one; else it raises OSError, and nothing else."""
    given_ = [*answers, *[PUBLIC] * good]
    try:
        resolved = asyncio.run(GuardedResolver(DEFAULT, lambda: Answers(*given_), 5).resolve("example.com", 443))
    except OSError:
        assert not given_ or len(given_) > 32 or not all(map(_is_public, answers))
        return
    assert {answer["host"] for answer in resolved} <= set(given_) and 1 <= len(resolved) <= 4
    assert all(map(_is_public, given_))


def _is_public(text: str) -> bool:
    try:
        return is_public(ip_address(text.partition("%")[0]))
    except ValueError:
        return False


@settings(max_examples=300)
@given(address=ADDRESSES, port=st.integers(1, 65535))
def test_a_socket_is_made_for_a_public_address_only(address: Address, port: int) -> None:
    """The last look: AddressRefused, or a socket."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        DEFAULT.open_socket((family, socket.SOCK_STREAM, 0, "", (str(address), port))).close()
        made = True
    except AddressRefused:
        made = False
    assert is_public(address) is made


_OCTETS = st.one_of(
    st.sampled_from(list("abcXYZ019-._~!$&'()*+,;=:@/[]")),
    st.builds("%{:02x}".format, st.integers(0, 255)),
    st.builds("%{:02X}".format, st.integers(0, 255)),
    st.sampled_from(["/../", "/./", "//", "%2F", "%7E", "%25", "..", "+"]),
)
_PARTS = st.lists(_OCTETS, max_size=12).map("".join)
_TARGETS = st.builds(
    lambda path, query: f"/{path}{query}",
    _PARTS,
    st.one_of(st.just(""), st.lists(_PARTS, max_size=3).map("?".join).map("?".__add__)),
)


@settings(max_examples=500)
@given(target=_TARGETS, fragment=st.one_of(st.just(""), _PARTS.map("#".__add__)))
def test_path_and_query_are_requested_as_they_were_written(target: str, fragment: str) -> None:
    """Byte for byte, whatever of RFC 3986 is in them; the fragment is not sent."""
    assert target == DEFAULT.permit_url(f"https://example.com{target}{fragment}").target


@pytest.fixture
async def wire() -> AsyncIterator[tuple[Wire, Post, int]]:
    """A receiver of octets, its port, and a client that may reach it."""
    receiver = Wire()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.setblocking(False)
    await receiver.listen([listener], None)
    config = EgressConfig(allow_http=True, allow=[ip_network("127.0.0.0/8")], ports=[(port, port)])
    async with Post(DeliveryConfig(), config) as post:
        yield receiver, post, port
    await receiver.stop()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=_TARGETS)
async def test_path_and_query_are_on_the_wire_as_they_were_written(target: str, wire: tuple[Wire, Post, int]) -> None:
    """The request line, as a receiver reads it."""
    receiver, post, port = wire
    receiver.heads.clear()
    answer = await post.send(Message(f"http://127.0.0.1:{port}{target}#fragment", {"X-Own": "1"}, b"{}"))
    assert isinstance(answer, Response)
    assert [f"POST {target} HTTP/1.1"] == [head.partition(b"\r\n")[0].decode() for head in receiver.heads]


def _storable(text: str) -> str:
    """What PostgreSQL takes as text at all."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raws=st.lists(TEXTS.map(_storable), min_size=20, max_size=60))
async def test_the_database_has_an_answer_to_any_text(raws: list[str], dsn: str) -> None:
    """Null or a reason, never an error; and never a reason against what the guard permits."""
    connection = await db.connect(dsn)
    try:
        reasons = await connection.fetch("select u, bisd.url_fault(u) from unnest($1::text[]) u", raws)
    finally:
        await connection.close()
    assert len(raws) == len(reasons)
    assert [] == [raw for raw, reason in reasons if reason is not None and _permitted(raw)]


def _permitted(raw: str) -> bool:
    try:
        DEFAULT.permit_url(raw)
    except UrlRefusedError:
        return False
    return True
