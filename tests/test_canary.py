"""The guard on a network where every address answers: canaries on all of them, and the wire is watched.

Runs in a network namespace of its own, which takes the rights of root (CAP_SYS_ADMIN); where those are missing it is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
import trustme

from bisd import resolver
from bisd.config import Config, DeliveryConfig, EgressConfig, RetryConfig
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.egress import Egress
from bisd.model import Answer, Code, Fault, Message, NoResponse, Refusal, Response, Took
from tests.support.certificate import issue, server_tls
from tests.support.daemon import running
from tests.support.network import NotPermitted, Watch, ip, listening, namespace
from tests.support.postgres import Server
from tests.support.proxy import Proxy
from tests.support.shop import Shop, eventually
from tests.support.urls import FORBIDDEN, GOOD, HOSTILE, PUBLIC
from tests.support.wire import Wire
from tests.support.zone import Zone, serve

IPV6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NAME_SERVER = "127.0.0.53"
PROXY = "10.9.8.7"
METADATA = "169.254.169.254"
URL = "https://shop.com/hook"
# What somebody who owns a name may answer, to be refused.
BAD_ANSWERS = {
    "loopback": ["127.0.0.1"],
    "private": ["10.0.0.1"],
    "metadata": [METADATA],
    "azure": ["168.63.129.16"],
    "unspecified": ["0.0.0.0"],  # noqa: S104
    "loopback-ipv6": ["::1"],
    "metadata-ipv6": ["fd00:ec2::254"],
    "mapped": ["::ffff:10.0.0.1"],
    "nat64": ["64:ff9b::a9fe:a9fe"],
    "6to4": ["2002:7f00:1::"],
    "isatap": ["2606:4700::5efe:7f00:1"],
    "one-bad-among-good": [PUBLIC, "93.184.216.35", "10.0.0.1"],
    "good-ipv4-bad-ipv6": [PUBLIC, "fd00::1"],
    "bad-ipv4-good-ipv6": ["192.168.1.1", IPV6],
    "alias": ["=inside.com"],
    "alias-and-good": [PUBLIC, "=inside.com"],
    "alias-of-an-alias": ["=alias.com"],
    "too-many": [f"93.184.216.{last}" for last in range(100, 133)],
}
GOOD_ANSWERS = {
    "ipv4": [PUBLIC],
    "ipv6": [IPV6],
    "both": [PUBLIC, IPV6],
    "alias": ["=outside.com"],
}
ALIASES = {"inside.com": [[METADATA]], "alias.com": [["=inside.com"]], "outside.com": [[PUBLIC, IPV6]]}


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every host that is good, and of those below."""
    hosts = {Egress(EgressConfig()).permit_url(raw).url.raw_host or "" for raw in GOOD}
    names = {host.rstrip(".").lower() for host in hosts | {"shop.com", PUBLIC, IPV6}}
    return issue(authority, names, tmp_path_factory.mktemp("tls") / "good.pem")


@pytest.fixture(scope="module")
def network(server: Server) -> Iterator[None]:
    """Every address in the world, all of them here; PostgreSQL stays outside, on its Unix socket."""
    try:
        with namespace():
            yield
    except NotPermitted as fault:
        pytest.skip(f"the canaries need a network namespace, and unshare says: {fault}")


@pytest.fixture
def watch(network: None) -> Iterator[Watch]:
    """However a test ends, no canary has been reached."""
    with Watch() as watch:
        yield watch
        assert [] == watch.hits()


@pytest.fixture
async def merchant(watch: Watch, certificate: Path) -> AsyncIterator[Wire]:
    """An honest receiver at both public addresses, on both ports."""
    wire = Wire()
    listeners = [listening(address, port) for address in (PUBLIC, IPV6) for port in (443, 8443)]
    await wire.listen(listeners, server_tls(certificate))
    yield wire
    await wire.stop()


@pytest.fixture
async def zone(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zone]:
    """A name server that the client's own resolver asks: c-ares, over UDP."""
    zone = Zone({name: [list(answer) for answer in answers] for name, answers in ALIASES.items()})
    transport = await serve(zone, NAME_SERVER, 53)

    def make() -> aiohttp.AsyncResolver:
        return aiohttp.AsyncResolver(nameservers=[NAME_SERVER], timeout=2, tries=2)

    monkeypatch.setattr(resolver, "guarded", lambda guard, patience: resolver.GuardedResolver(guard, make, patience))
    yield zone
    transport.close()


@pytest.fixture
async def post(zone: Zone, ca_file: Path) -> AsyncIterator[Post]:
    async with Post(DeliveryConfig(), EgressConfig(ca_file=ca_file)) as post:
        yield post


async def send(post: Post, url: str = URL) -> Answer:
    return await post.send(Message(url, {}, b"{}"))


async def status(post: Post, url: str = URL) -> int | Answer:
    """What the receiver answered, or what came instead."""
    answer = await send(post, url)
    return answer.status if isinstance(answer, Response) else answer


async def test_the_canaries_sing(watch: Watch) -> None:
    """They are reached at whatever address is dialled, and the wire shows it: what they do not see did not happen."""
    for address in ("127.0.0.1", "10.0.0.1", METADATA, "fd00:ec2::254", "::1", "8.8.8.8"):
        _, writer = await asyncio.open_connection(address, 443)
        writer.close()
        assert {(address, 443)} == watch.dialled()
        mapped = address if ":" in address else f"::ffff:{address}"
        assert [f"{mapped} 443"] == watch.hits()


async def test_no_hostile_url_reaches_anything(post: Post, zone: Zone, watch: Watch) -> None:
    """The whole table, although everything it names is there: not one connection is asked for, not one name."""
    answers = {raw: await send(post, raw) for raw in HOSTILE}
    assert {} == {raw: answer for raw, answer in answers.items() if answer != Refusal(Code.REFUSED_URL)}
    assert set() == watch.dialled()
    assert 0 == zone.asked.total()


async def test_every_good_url_arrives_byte_for_byte(post: Post, zone: Zone, watch: Watch, certificate: Path) -> None:
    """The whole table: over verified TLS, at its own address, and with path and query as they were written."""
    permitted = {raw: Egress(EgressConfig()).permit_url(raw) for raw in GOOD}
    hosts = {raw: (url.raw_host or "").rstrip(".").lower() for raw, (url, _) in permitted.items()}
    literals = {host for host in hosts.values() if ":" in host or host.rpartition(".")[2].isdigit()}
    zone.names |= {host: [[PUBLIC]] for host in hosts.values() if host not in literals}
    receiver = Wire()
    addresses = literals | {PUBLIC}
    listeners = [listening(address, port) for address in addresses for port in (443, 8443)]
    await receiver.listen(listeners, server_tls(certificate))
    try:
        assert dict.fromkeys(GOOD, 200) == {raw: await status(post, raw) for raw in GOOD}
    finally:
        await receiver.stop()
    assert list(GOOD.values()) == receiver.targets
    dialled = {(str(ip_address(host if host in literals else PUBLIC)), permitted[raw].url.port) for raw, host in hosts.items()}
    assert dialled == watch.dialled()


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_a_name_with_a_bad_answer_is_not_dialled(answer: list[str], post: Post, zone: Zone, watch: Watch) -> None:
    """Not at any of its addresses: it is refused, for good."""
    zone.names["shop.com"] = [answer]
    assert Refusal(Code.REFUSED_ADDRESS) == await send(post)
    assert set() == watch.dialled()


@pytest.mark.parametrize("answer", GOOD_ANSWERS.values(), ids=GOOD_ANSWERS)
async def test_a_name_with_good_answers_is_reached(
    answer: list[str], post: Post, zone: Zone, merchant: Wire, watch: Watch
) -> None:
    """At one of its addresses."""
    zone.names["shop.com"] = [answer]
    assert 200 == await status(post)
    assert watch.dialled() <= {(PUBLIC, 443), (IPV6, 443)}
    assert ["/hook"] == merchant.targets


async def test_an_answer_that_changes_between_lookups(post: Post, zone: Zone, merchant: Wire, watch: Watch) -> None:
    """Rebinding: public, then inside, then public again. An open connection stays with whom it was made."""
    zone.names["shop.com"] = [[PUBLIC], ["127.0.0.1"], [PUBLIC, METADATA], [PUBLIC]]
    assert 200 == await status(post)
    merchant.answer = merchant.OK.replace(b"Content", b"Connection: close\r\nContent")
    assert 200 == await status(post)
    assert {(PUBLIC, 443)} == watch.dialled()
    assert [Refusal(Code.REFUSED_ADDRESS)] * 2 == [await send(post), await send(post)]
    assert set() == watch.dialled()
    assert 200 == await status(post)
    assert {(PUBLIC, 443)} == watch.dialled()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_to_inside_is_an_answer_and_no_more(
    code: int, post: Post, zone: Zone, merchant: Wire, watch: Watch
) -> None:
    """One request, one connection; where it points is only kept."""
    zone.names["shop.com"] = [[PUBLIC]]
    places = [f"http://{METADATA}/", f"https://{METADATA}/", "//10.0.0.1/", "https://[fd00:ec2::254]/", f"https://{PUBLIC}/"]
    for place in places:
        head = f"HTTP/1.1 {code} Elsewhere\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
        merchant.answer = head.encode()
        answer = await send(post)
        assert isinstance(answer, Response)
        assert (code, place) == (answer.status, answer.location)
    assert ["/hook"] * len(places) == merchant.targets
    assert {(PUBLIC, 443)} == watch.dialled()


async def test_proxies_of_the_environment_are_not_asked(
    zone: Zone, merchant: Wire, watch: Watch, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is .netrc read: what the environment says does not lead past the guard."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "ws_proxy", "wss_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "http://10.66.66.66:8080")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "localhost")
    (tmp_path / ".netrc").write_text("machine shop.com login merchant password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    zone.names["shop.com"] = [[PUBLIC]]
    async with Post(DeliveryConfig(), EgressConfig(ca_file=ca_file)) as post:
        assert [200, 200] == [await status(post), await status(post, f"https://{PUBLIC}:8443/literal")]
    assert {(PUBLIC, 443), (PUBLIC, 8443)} == watch.dialled()
    assert [False, False] == [b"authorization" in head.lower() for head in merchant.heads]


async def test_an_address_without_a_route_is_its_owners_fault(post: Post, zone: Zone, merchant: Wire, watch: Watch) -> None:
    """Who registers an IPv6 address where there is no IPv6 fails alone; where nothing can be reached, it is us."""
    zone.names["shop.com"] = [[PUBLIC]]
    ip("-6 route del local ::/0 dev lo")
    try:
        alone = await send(post, f"https://[{IPV6}]/")
        assert isinstance(alone, NoResponse)
        assert Code.CONNECT == alone.code
        assert 200 == await status(post)
        ip("route del local 0.0.0.0/0 dev lo")
        assert Fault(Code.NETWORK) == await send(post, f"https://{PUBLIC}:8443/")
    finally:
        ip("route replace local 0.0.0.0/0 dev lo")
        ip("-6 route replace local ::/0 dev lo")
    assert {(PUBLIC, 443)} == watch.dialled()


async def test_a_daemon_refuses_what_got_into_the_database(dsn: str, shop: Shop, zone: Zone, watch: Watch) -> None:
    """Every hostile URL that SQL cannot tell, subscribed by SQL: each delivery is settled as refused, nothing is dialled."""
    urls = [url for url in FORBIDDEN if await shop.connection.fetchval("select bisd.url_fault($1)", url) is None]
    assert len(urls) > 150
    for url in urls:
        await shop.subscribe("notification/create", url)
    default = Config()
    async with running(replace(default, log=replace(default.log, level="error")), dsn):
        await shop.notify()
        await eventually(lambda: _nothing_owed(shop))
    settled = await shop.connection.fetch("select state, last_error, count(*) from bisd.delivery_status group by 1, 2")
    assert [("refused", "refused_url", len(urls))] == [tuple(row) for row in settled]
    assert set() == watch.dialled()
    assert 0 == zone.asked.total()


async def _nothing_owed(shop: Shop) -> bool:
    return 0 == await shop.owed()


class WayOut:
    """A client that goes by a proxy, and whom the proxy connects it to."""

    def __init__(self, post: Post, proxy: Proxy, merchant: Wire) -> None:
        self.post = post
        self.proxy = proxy
        self.merchant = merchant


@asynccontextmanager
async def way_out(certificate: Path, ca_file: Path, directory: Path, proxy: str = PROXY) -> AsyncIterator[WayOut]:
    """The proxy stands inside, and what it passes on ends at a Unix socket: so all that is on the wire is ours."""
    merchant, asked = Wire(), Proxy(str(directory / "merchant"))
    await merchant.listen_at(str(directory / "merchant"), server_tls(certificate))
    await asked.listen(listening(PROXY, 3128))
    try:
        async with Post(DeliveryConfig(), EgressConfig(ca_file=ca_file, proxy=f"http://{proxy}:3128")) as post:
            yield WayOut(post, asked, merchant)
    finally:
        await asked.stop()
        await merchant.stop()


@pytest.mark.parametrize("proxy", [PROXY, "proxy.internal"])
async def test_a_delivery_through_the_proxy(
    proxy: str, zone: Zone, watch: Watch, certificate: Path, ca_file: Path, tmp_path: Path
) -> None:
    """It arrives, by CONNECT and TLS from end to end; the proxy is all that is resolved and dialled, and told nothing else."""
    zone.names["proxy.internal"] = [[PROXY]]
    async with way_out(certificate, ca_file, tmp_path, proxy) as out:
        urls = [URL, f"https://{PUBLIC}:8443/%7Ea?b=%2F", "https://shop.com./dot"]
        assert [200] * 3 == [await status(out.post, url) for url in urls]
        assert ["shop.com:443", f"{PUBLIC}:8443", "shop.com.:443"] == out.proxy.asked
        assert [False] * 3 == [b"X-BIS" in head or b"hook" in head for head in out.proxy.heads]
        assert ["/hook", "/%7Ea?b=%2F", "/dot"] == out.merchant.targets
    assert {(PROXY, 3128)} == watch.dialled()
    assert {"proxy.internal"} >= {name for name, _ in zone.asked}


async def test_the_proxy_cannot_pose_as_the_merchant(
    zone: Zone, watch: Watch, certificate: Path, authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """Names and chains are verified through it: for another name, and by another authority."""
    other, unknown = tmp_path / "other.pem", tmp_path / "unknown.pem"
    authority.issue_cert("other.com").private_key_and_cert_chain_pem.write_to_path(str(other))
    trustme.CA().issue_cert("shop.com").private_key_and_cert_chain_pem.write_to_path(str(unknown))
    for chain, code in ((other, Code.TLS_NAME), (unknown, Code.TLS_UNTRUSTED)):
        async with way_out(chain, ca_file, tmp_path) as out:
            answer = await send(out.post)
            assert isinstance(answer, NoResponse)
            assert (code, []) == (answer.code, out.merchant.heads)
    assert {(PROXY, 3128)} == watch.dialled()


async def test_the_proxy_is_not_asked_for_what_is_inside(
    zone: Zone, watch: Watch, certificate: Path, ca_file: Path, tmp_path: Path
) -> None:
    """The whole hostile table is refused before it: it may stand where it reaches everything."""
    async with way_out(certificate, ca_file, tmp_path) as out:
        answers = {raw: await send(out.post, raw) for raw in HOSTILE}
        assert {} == {raw: answer for raw, answer in answers.items() if answer != Refusal(Code.REFUSED_URL)}
        assert [] == out.proxy.asked
    assert set() == watch.dialled()
    assert 0 == zone.asked.total()


@pytest.mark.parametrize(
    ("refusal", "answer", "took"),
    [
        (403, Refusal(Code.REFUSED_ADDRESS), Took.UNKNOWN),
        (407, Fault(Code.NETWORK), Took.OURS),
        (502, Code.CONNECT, Took.NO),
        (504, Code.CONNECT, Took.NO),
        (302, Code.CONNECT, Took.NO),
    ],
)
async def test_what_the_proxy_answers(
    refusal: int,
    answer: Answer | Code,
    took: Took,
    zone: Zone,
    watch: Watch,
    certificate: Path,
    ca_file: Path,
    tmp_path: Path,
) -> None:
    """That it may not be is a refusal, that we may not ask is our fault, that it failed is the receiver's."""
    async with way_out(certificate, ca_file, tmp_path) as out:
        out.proxy.refusal = refusal
        actual = await send(out.post)
    assert answer == (actual.code if isinstance(actual, NoResponse) else actual)
    assert took is Policy(DeliveryConfig(), RetryConfig()).took(actual)
    assert {(PROXY, 3128)} == watch.dialled()


async def test_a_proxy_that_is_down_is_our_fault(zone: Zone, watch: Watch, ca_file: Path) -> None:
    """Nobody's webhook fails by it; and nothing is dialled in its stead."""
    zone.names["shop.com"] = [[PUBLIC]]
    async with Post(DeliveryConfig(), EgressConfig(ca_file=ca_file, proxy=f"http://{PROXY}:3129")) as post:
        answer = await send(post)
    assert Fault(Code.NETWORK) == answer
    assert Took.OURS is Policy(DeliveryConfig(), RetryConfig()).took(answer)
    assert {(PROXY, 3129)} == watch.dialled()
