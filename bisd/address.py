"""Where the HTTP face listens, as the configuration writes it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

# What struct sockaddr_un has room for, less the octet that ends it.
_MAX_SOCKET_PATH = 107


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0: any that is free."""

    host: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host.version == 4 else f"[{self.host}]:{self.port}"


def parse_listen(text: object) -> Address | Path | None:
    """'127.0.0.1:8747' or '[::1]:8747'; 'unix:/run/bisd/shop.sock', a socket's path; 'off', None. Raises ValueError."""
    if text == "off":
        return None
    given = text if isinstance(text, str) else ""
    if given.startswith("unix:/") and "\0" not in given:
        path = given.removeprefix("unix:")
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            raise ValueError(f"the path of a socket has {_MAX_SOCKET_PATH} bytes at most")
        return Path(path)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", given)
    try:
        if match is None or int(match[3]) > 65535:
            raise ValueError
        return Address(ip_address(match[1] or match[2]), int(match[3]))
    except ValueError:
        says = 'must be an address and a port, like "127.0.0.1:8747", a socket, like "unix:/run/bisd/shop.sock", or "off"'
        raise ValueError(says) from None
