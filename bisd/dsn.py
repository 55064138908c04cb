"""What a database's URL says. Nothing of it is ever quoted: a password may stand anywhere in one that is wrong."""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

# What asyncpg understands; all else it sends to the server as a setting, which then refuses the session.
_PARAMETERS = {
    "application_name", "database", "dbname", "gsslib", "host", "krbsrvname", "options", "passfile", "password", "port",
    "service", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcrl", "sslkey", "sslmode",
    "sslnegotiation", "sslpassword", "sslrootcert", "target_session_attrs", "user",
}  # fmt: skip
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]|/[^\s,]*")
_LOCAL_NAMES = {"", "localhost"}
# Where PgBouncer listens, unless told otherwise.
_POOLER_PORT = 6432


@dataclass(frozen=True, slots=True)
class Dsn:
    """A database's URL, taken apart. `hosts`: names, addresses or directories of sockets; '' where none is named."""

    hosts: list[str]
    ports: list[int]
    sslmode: str
    has_password: bool

    @property
    def is_local(self) -> bool:
        """Whether no octet leaves this host."""
        return all(map(_is_local, self.hosts))

    @property
    def is_pooled(self) -> bool:
        """Whether its port is one where a pooler listens by default."""
        return _POOLER_PORT in self.ports


def parse_dsn(text: str) -> Dsn:
    """Raises ValueError with what would be right."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL, like postgresql://bisd@db.example.com/shop")
    try:
        parts = urlsplit(text)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("is not a URL: what is not a letter or a digit in a name or a password has to be %-encoded") from None
    parameters = dict(pairs)
    for name in parameters:
        if name not in _PARAMETERS:
            close = difflib.get_close_matches(name, _PARAMETERS, n=1)
            raise ValueError("has a parameter that is not known" + (f"; did you mean {close[0]}?" if close else ""))
    sslmode = parameters.get("sslmode", "prefer")
    if sslmode not in _SSL_MODES:
        raise ValueError(f"its sslmode must be one of {', '.join(_SSL_MODES)}")
    named = _servers(parts, parameters)
    ports = list(dict.fromkeys(port for _, port in named if port is not None))
    return Dsn([host for host, _ in named], ports, sslmode, _has_password(parts, parameters))


def servers(text: str) -> list[tuple[str, int | None]]:
    """Those that a URL names, each with its port, if it has one. What else it says is for whoever connects to judge. Raises
    ValueError."""
    parts = urlsplit(text)
    return _servers(parts, dict(parse_qsl(parts.query, keep_blank_values=True)))


def _servers(parts: SplitResult, parameters: dict[str, str]) -> list[tuple[str, int | None]]:
    servers: list[tuple[str, int | None]] = []
    ports = [_port(port) for port in parameters.get("port", "").split(",") if port]
    listed = _split(parts.netloc)[1] or parameters.get("host", "")
    for number, one in enumerate(listed.split(",")):
        match = re.fullmatch(r"(\[.*\]|[^:]*)(?::([^:]*))?", unquote(one))
        if match is None or (listed and not _HOST.fullmatch(match[1])):
            raise ValueError("has a host that is neither a name, nor an address (of IPv6 in brackets), nor a directory")
        port = ports[number] if number < len(ports) else ports[-1] if ports else None
        servers.append((match[1], port if match[2] is None else _port(match[2])))
    return servers


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("has a port that is none: ports lie between 1 and 65535")
    return int(text)


def _has_password(parts: SplitResult, parameters: dict[str, str]) -> bool:
    return bool(_split(parts.netloc)[0].partition(":")[2] or parameters.get("password"))


def _split(netloc: str) -> tuple[str, str]:
    """Who, and where: at the first @, as asyncpg does."""
    who, at, where = netloc.partition("@")
    return (who, where) if at else ("", who)


def _is_local(host: str) -> bool:
    if host in _LOCAL_NAMES or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False
