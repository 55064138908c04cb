"""Which addresses may be reached. The URL is the merchant's, so it is hostile, and its name may answer differently each time:
what counts is decided inside the connection, by a resolver that only returns permitted addresses (resolver.py) and by the
factory that makes the socket, which sees literal addresses too."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

import idna
from yarl import URL

from bisd.config import EgressConfig
from bisd.errors import UrlRefusedError

if TYPE_CHECKING:  # whoever only judges a URL need not wait for an HTTP client
    from aiohttp import AddrInfoType

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
# Names that are for use inside (RFC 6761, 6762, 8375, ICANN's .internal, and what routers and clouds made of them).
_INSIDE = (
    "localhost local localdomain internal intranet private corp home mail lan svc test invalid example onion alt arpa"
).split()
_GLOBAL_IPV6 = ip_network("2000::/3")
_HOST_NAME = re.compile(r"((?!-)[A-Za-z0-9_-]{1,63}(?<!-)\.)*(?!-)[A-Za-z0-9-]{1,63}(?<!-)\.?")
# As the schema has it (bisd.url_fault).
_MOST_CHARACTERS = 2048
_MAX_ANSWERS = 32
_RECEIVE_BUFFER = 1 << 14


class AddressRefused(OSError):
    """The address may not be reached. An OSError, so that aiohttp treats it as a connection that failed."""


class Permitted(NamedTuple):
    """Whom to ask, and for what: path and query as they were registered."""

    url: URL
    target: str


class Egress:
    """The decision, for URLs, names, literals, DNS answers and sockets alike."""

    def __init__(self, config: EgressConfig) -> None:
        self._allow_http = config.allow_http
        self._allow = config.allow
        self._deny = config.deny
        self._ports = config.ports
        self.proxy = URL(config.proxy) if config.proxy is not None else None
        literal = _literal(self.proxy.host_subcomponent or "") if self.proxy is not None else None
        self._proxy_addresses: set[_Address] = set() if literal is None else {literal}

    def permits(self, address: _Address) -> bool:
        """Denied networks first, then allowed ones; otherwise what is globally routable."""
        if _within(address, self._deny):
            return False
        if _within(address, self._allow):
            return True
        if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
            return False
        return not (_within(address, _SPECIAL) or _is_isatap(address))

    def permit_url(self, raw: str) -> Permitted:
        """The URL, and what will be requested of its host, byte for byte. Raises UrlRefusedError with the reason."""
        if len(raw) > _MOST_CHARACTERS:
            raise UrlRefusedError(reason=f"it has more than {_MOST_CHARACTERS} characters")
        if not raw.isascii() or not raw.isprintable() or re.search(r"[\s\\<>\"{}|^`]", raw):
            raise UrlRefusedError(reason="it has characters that a URL cannot have; percent-encode them")
        match = re.match(r"(https?)://([^/?#]*)", raw, re.IGNORECASE)
        if match is None:
            raise UrlRefusedError(reason="it must start with https://")
        scheme, authority = match[1].lower(), match[2]
        if scheme == "http" and not self._allow_http:
            raise UrlRefusedError(reason="it must start with https://; plain HTTP is not allowed here")
        if "@" in authority:
            raise UrlRefusedError(reason="it must not contain a user name or a password")
        host, port = _split(authority, 443 if scheme == "https" else 80)
        if not any(first <= port <= last for first, last in self._ports):
            raise UrlRefusedError(reason=f"port {port} is not allowed; see [egress] ports")
        self._permit_host(host)
        target = raw[match.end() :].partition("#")[0]
        if re.search(r"%(?![0-9A-Fa-f]{2})", target):
            raise UrlRefusedError(reason="it has a % that begins no percent-encoding; write %25")
        try:
            return Permitted(URL(raw.partition("#")[0], encoded=True), target if target.startswith("/") else f"/{target}")
        except ValueError:
            raise UrlRefusedError(reason="it is not a URL") from None

    def _permit_host(self, host: str) -> None:
        address = _literal(host)
        if address is not None:
            if not self.permits(address):
                raise UrlRefusedError(reason="its address is not a public one")
            return
        name = host.removesuffix(".").lower()
        if not _HOST_NAME.fullmatch(host) or len(name) > 253 or re.fullmatch(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)", name):
            raise UrlRefusedError(reason="its host is neither a name nor an address in the usual form")
        if not all(map(_is_what_it_says, name.split("."))):
            raise UrlRefusedError(reason="its host has a label in Punycode that stands for no such name")
        if not self._allow and ("." not in name or any(name == one or name.endswith(f".{one}") for one in _INSIDE)):
            raise UrlRefusedError(reason="its host is a name for use inside a network, not a public one")

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """aiohttp's socket factory: the last look at an address before it is dialled. Raises AddressRefused."""
        family, kind, protocol, _, sockaddr = info
        address = ip_address(str(sockaddr[0]).partition("%")[0])
        if self.proxy is None:
            permitted = self.permits(address)
        else:
            permitted = sockaddr[1] == self.proxy.port and address in self._proxy_addresses
        if not permitted:
            raise AddressRefused("address not permitted")
        opened = socket.socket(family=family, type=kind, proto=protocol)
        # What a peer sends is worked off in one go by TLS: so much of it, and no more, keeps others waiting.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        return opened

    def vet(self, host: str, addresses: Sequence[_Address]) -> None:
        """Answers of the DNS: one that is not permitted condemns the name. Raises AddressRefused. Where a proxy is the way out
        it is the only name that we resolve, and its addresses the only ones that we dial."""
        if self.proxy is not None:
            if host.rstrip(".") != (self.proxy.raw_host or "").rstrip("."):
                raise AddressRefused("only the proxy is dialled")
            self._proxy_addresses |= set(addresses)  # those of before may be about to be dialled
        elif len(addresses) > _MAX_ANSWERS or not all(map(self.permits, addresses)):
            raise AddressRefused("address not permitted")


def _within(address: _Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _is_isatap(address: _Address) -> bool:
    """Whether it embeds an IPv4 address in its interface identifier (RFC 5214), under whatever prefix."""
    return isinstance(address, IPv6Address) and int(address) >> 32 & 0xFDFF_FFFF == 0x5EFE


def _is_what_it_says(label: str) -> bool:
    """Whether a label in Punycode is that of a name which needs it: what decodes to plain letters, digits or dots, to
    full-width ones, or not at all, was written to be taken for another name by somebody who decodes it."""
    if not label.startswith("xn--"):
        return True
    try:
        name = label[4:].encode().decode("punycode")
        return not name.isascii() and idna.uts46_remap(name) == name and name.encode("punycode").decode() == label[4:]
    except UnicodeError:
        return False


def _split(authority: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[^:\[\]%]+)(?::(0|[1-9][0-9]{0,4}))?", authority)
    if match is None:
        raise UrlRefusedError(reason="its host is neither a name nor an address in the usual form")
    return match[1], int(match[2]) if match[2] else default


def _literal(host: str) -> _Address | None:
    try:
        return IPv6Address(host[1:-1]) if host.startswith("[") else IPv4Address(host)
    except ValueError:
        return None
