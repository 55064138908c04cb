"""The table of URLs in tests/vectors, and a name server for it that answers as it is told."""

from __future__ import annotations

import socket
import tomllib
from ipaddress import ip_address
from pathlib import Path

from aiohttp.abc import AbstractResolver, ResolveResult

PUBLIC = "93.184.216.34"

_TABLE = tomllib.loads((Path(__file__).parent.parent / "vectors" / "urls.toml").read_text(encoding="utf-8"))
# Too long to be read in a table; the longest that is good, by its name and as a whole.
_LONG_NAME = ".".join(["a" * 63] * 3 + ["b" * 57, "com"])
_LONGEST = "https://example.com/" + "a" * (2048 - len("https://example.com/"))

MALFORMED: dict[str, str] = {url: why for rows in _TABLE["malformed"].values() for url, why in rows.items()} | {
    f"{_LONGEST}a": "one character too many",
    "https://example.com/?" + "a" * 5_000_000: "five million characters",
    "https://" + "a." * 5000 + "com/": "five thousand labels",
    "https://example.com:" + "9" * 5000 + "/": "more digits than int() takes",
}
FORBIDDEN: dict[str, str] = {url: why for rows in _TABLE["forbidden"].values() for url, why in rows.items()} | {
    f"https://a{_LONG_NAME}/": "a name of 254 characters",
    "https://" + "a." * 127 + "com/": "a name of 257 characters",
}
HOSTILE = MALFORMED | FORBIDDEN
# URL -> what is requested of its host.
GOOD: dict[str, str] = _TABLE["good"] | {
    f"https://{_LONG_NAME}/": "/",
    f"https://{_LONG_NAME}./": "/",
    _LONGEST: _LONGEST.removeprefix("https://example.com"),
}


class Answers(AbstractResolver):
    """A name server that answers as it is told, and remembers what it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] = addresses
        self.asked: list[str] = []
        self.closed = False

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=_family(address), proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


def _family(address: str) -> int:
    try:
        return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    except ValueError:
        return socket.AF_INET
