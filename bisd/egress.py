"""Which addresses may be reached. The URL is the merchant's, so it is hostile, and its name may answer differently each time:
what counts is decided inside the connection, by a resolver that only returns permitted addresses and by the factory that
makes the socket, which sees literal addresses too."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from time import monotonic

import aiodns
import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bisd.config import EgressConfig
from bisd.errors import UrlRefusedError

_Address = IPv4Address | IPv6Address

# Everything that is not plain global unicast: the IANA special-purpose registries, multicast, what embeds an IPv4 address,
# and metadata services on addresses that look global. `is_global` of the standard library is wrong for some of these.
_SPECIAL = [
    ip_network(text)
    for text in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
        "192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 "
        "198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        "::/96 ::1/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32 "
        "2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
    ).split()
]
_GLOBAL_IPV6 = ip_network("2000::/3")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_MAX_ANSWERS = 32
# What a resolver that works says of a name that does not.
_NO_SUCH_NAME = {
    aiodns.error.ARES_ENOTFOUND,
    aiodns.error.ARES_ENODATA,
    aiodns.error.ARES_ENONAME,
    aiodns.error.ARES_EBADNAME,
    aiodns.error.ARES_EFORMERR,
}
# Without an answer to any name for so many seconds, it is not the name.
_SILENCE = 30.0


class AddressRefused(OSError):
    """The address may not be reached. An OSError, so that aiohttp treats it as a connection that failed."""


class ResolverSilent(OSError):
    """No name has been answered for a while: our resolver is at fault, or the way to it, and not the name."""


class Egress:
    """The decision, for URLs, names, literals, DNS answers and sockets alike."""

    def __init__(self, config: EgressConfig) -> None:
        self._allow_http = config.allow_http
        self._allow = config.allow
        self._deny = config.deny
        self._ports = config.ports
        # Judged once per URL, not once per POST; refusals are not kept.
        self.permit_url = lru_cache(maxsize=8192)(self._permit_url)

    def permits(self, address: _Address) -> bool:
        """Denied networks first, then allowed ones; otherwise what is globally routable."""
        if _within(address, self._deny):
            return False
        if _within(address, self._allow):
            return True
        if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
            return False
        return not _within(address, _SPECIAL)

    def _permit_url(self, raw: str) -> URL:
        """The URL as it will be requested, byte for byte. Raises UrlRefusedError with the reason."""
        if not raw.isascii() or not raw.isprintable() or re.search(r"[\s\\<>\"{}|^`]", raw):
            raise UrlRefusedError(reason="it has characters that a URL cannot have; percent-encode them")
        match = re.match(r"(https?)://([^/?#]*)", raw)
        if match is None:
            raise UrlRefusedError(reason="it must start with https://")
        scheme, authority = match[1], match[2]
        if scheme == "http" and not self._allow_http:
            raise UrlRefusedError(reason="it must start with https://; plain HTTP is not allowed here")
        if "@" in authority:
            raise UrlRefusedError(reason="it must not contain a user name or a password")
        host, port = _split(authority, 443 if scheme == "https" else 80)
        if not any(first <= port <= last for first, last in self._ports):
            raise UrlRefusedError(reason=f"port {port} is not allowed; see [egress] ports")
        self._permit_host(host)
        try:
            return URL(raw.partition("#")[0], encoded=True)
        except ValueError:
            raise UrlRefusedError(reason="it is not a URL") from None

    def _permit_host(self, host: str) -> None:
        address = _literal(host)
        if address is not None:
            if not self.permits(address):
                raise UrlRefusedError(reason="its address is not a public one")
        elif not _HOST_NAME.fullmatch(host) or len(host) > 253 or re.fullmatch(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?", host, re.I):
            raise UrlRefusedError(reason="its host is neither a name nor an address in the usual form")

    def open_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """aiohttp's socket factory: the last look at an address before it is dialled. Raises AddressRefused."""
        family, kind, protocol, _, sockaddr = info
        if not self.permits(ip_address(str(sockaddr[0]).partition("%")[0])):
            raise AddressRefused("address not permitted")
        return socket.socket(family=family, type=kind, proto=protocol)


class GuardedResolver(AbstractResolver):
    """Resolves by c-ares, without a thread, in `patience` seconds; one forbidden answer condemns the name."""

    def __init__(self, egress: Egress, inner: AbstractResolver, patience: float) -> None:
        self._egress = egress
        self._inner = inner
        self._patience = patience
        self._answered_at = float("-inf")

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Raises AddressRefused, ResolverSilent, or OSError where the name is at fault."""
        answers = await self._ask(host, port, family)
        if len(answers) > _MAX_ANSWERS:
            raise AddressRefused("too many addresses")
        for answer in answers:
            if not self._egress.permits(ip_address(answer["host"].partition("%")[0])):
                raise AddressRefused("address not permitted")
        return answers

    async def _ask(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._patience):
                answers = await self._inner.resolve(host, port, family)
        except OSError as fault:
            cause = fault.__cause__
            if isinstance(cause, aiodns.error.DNSError) and cause.args[0] in _NO_SUCH_NAME:
                self._answered_at = monotonic()
            elif monotonic() - self._answered_at > _SILENCE:
                raise ResolverSilent("no answer to any name") from None
            raise OSError("the name cannot be resolved") from None
        self._answered_at = monotonic()
        return answers

    async def close(self) -> None:
        await self._inner.close()


def resolver(egress: Egress, patience: float) -> GuardedResolver:
    """Needs a running loop. Its own channel: aiohttp's shared one reads resolv.conf once and for ever."""
    return GuardedResolver(egress, aiohttp.AsyncResolver(timeout=2, tries=2), patience)


def _within(address: _Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _split(authority: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]|[^:\[\]%]+)(?::([0-9]{1,5}))?", authority)
    if match is None:
        raise UrlRefusedError(reason="its host is neither a name nor an address in the usual form")
    return match[1], int(match[2]) if match[2] else default


def _literal(host: str) -> _Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
