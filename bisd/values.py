"""Values of the configuration, as TOML writes them: durations, ports, networks, files, URLs. What is wrong is told by what
would be right."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Strict

from bisd.address import Address, parse_listen
from bisd.dsn import parse_dsn

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_duration(text: object) -> timedelta:
    """'15s', '1.5h', '30d' -> timedelta. Units are ms, s, m, h, d, w; at most ten years. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|[smhdw])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError('must be a duration in quotes, like "15s", "5m", "12h" or "30d"')
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > 3650 * 86400:
        raise ValueError("must be at most ten years")
    return timedelta(seconds=seconds)


def parse_ports(entry: object) -> tuple[int, int]:
    """443 -> (443, 443); '8000-8099' -> (8000, 8099). Raises ValueError."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        first = last = entry
    elif isinstance(entry, str) and (match := re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", entry)):
        first, last = int(match[1]), int(match[2])
    else:
        raise ValueError('must be a port, like 443, or a range in quotes, like "8000-8099"')
    if not 1 <= first <= last <= 65535:
        raise ValueError("ports lie between 1 and 65535")
    return first, last


def _parse_network(text: object) -> IPv4Network | IPv6Network:
    if not isinstance(text, str) or "%" in text:  # ipaddress takes the zone of a host for a part of the network
        raise ValueError('must be a network in quotes, like "10.1.0.0/16"')
    try:
        return ip_network(text)
    except ValueError as fault:
        raise ValueError(f'must be a network, like "10.1.0.0/16": {fault}') from None


def _parse_file(text: object) -> Path:
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError("must be the path of a file, in quotes")
    return Path(text)


def _parse_key_file(text: object) -> Path:
    if isinstance(text, str) and re.fullmatch(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=", text):
        raise ValueError("is a master key itself: write it to a file that only bisd reads, and name the file")
    return _parse_file(text)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def _allowed(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if network.prefixlen == 0:
        raise ValueError("is every address there is, those of your own hosts among them: name the networks of your receivers")
    return network


def _dsn(text: str) -> str:
    parse_dsn(text)
    return text


def _proxy_url(text: str) -> str:
    if not re.fullmatch(r"http://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?", text):
        raise ValueError('must be a URL with a port, and without a user name, like "http://proxy.example.com:3128"')
    return text


def _public_url(text: str) -> str:
    if not re.fullmatch(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?", text):
        raise ValueError('must be a URL without a path, like "https://bisd.example.com"')
    return text


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Ports = Annotated[tuple[int, int], BeforeValidator(parse_ports)]
DatabaseUrl = Annotated[str, Strict(), AfterValidator(_dsn)]
ProxyUrl = Annotated[str, Strict(), AfterValidator(_proxy_url)]
PublicUrl = Annotated[str, Strict(), AfterValidator(_public_url)]
Listen = Annotated[Address | Path | None, BeforeValidator(parse_listen)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_parse_network)]
AllowedNetwork = Annotated[Network, AfterValidator(_allowed)]
File = Annotated[Path, BeforeValidator(_parse_file)]
KeyFile = Annotated[Path, BeforeValidator(_parse_key_file)]
