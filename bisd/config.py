"""The configuration of one deployment: a TOML file, overridden by BISD_SECTION_KEY from the environment.

`Config` and its sections are the only list of keys and defaults; config/bisd.toml shows the same, held equal by a test.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from bisd.address import Address, parse_listen
from bisd.errors import ConfigurationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_MAX_FILE_BYTES = 1 << 20
_STRICT = ConfigDict(extra="forbid")
_ENVIRONMENT = "BISD_"
# Sections and keys whose values no fault shows: somebody may have put a password there.
_SECRET = {"database", "keys", "egress.proxy"}
# The command line's own.
_NOT_SETTINGS = {"BISD_CONFIG", "BISD_LISTEN_KEY"}


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
    if not isinstance(text, str):
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


def _postgresql_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL, like postgresql://bisd@db.example.com/shop")
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
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_parse_network)]
File = Annotated[Path, BeforeValidator(_parse_file)]
KeyFile = Annotated[Path, BeforeValidator(_parse_key_file)]
Listen = Annotated[Address | Path | None, BeforeValidator(parse_listen)]


@dataclass(frozen=True)
class DatabaseConfig:
    """`dsn` None and no `dsn_file`: the embedded PostgreSQL serves."""

    __pydantic_config__ = _STRICT

    dsn: Annotated[str, Strict(), AfterValidator(_postgresql_url)] | None = None
    dsn_file: File | None = None


@dataclass(frozen=True)
class KeysConfig:
    """`master_file` None: API keys are kept in plain, protected by grants alone."""

    __pydantic_config__ = _STRICT

    master_file: KeyFile | None = None
    retired_files: Annotated[list[KeyFile], Field(max_length=100)] = field(default_factory=list)


@dataclass(frozen=True)
class DeliveryConfig:
    __pydantic_config__ = _STRICT

    max_in_flight: Annotated[int, Strict(), Field(ge=1, le=50_000)] = 1200
    max_in_flight_per_webhook: Annotated[int, Strict(), Field(ge=1, le=10_000)] = 32
    timeout: PositiveDuration = timedelta(seconds=15)
    connect_timeout: PositiveDuration = timedelta(seconds=5)
    success: Annotated[list[Annotated[int, Strict(), Field(ge=200, le=299)]], Field(min_length=1)] = field(
        default_factory=lambda: [200]
    )
    max_body_bytes: Annotated[int, Strict(), Field(ge=1, le=64 << 20)] = 1 << 20
    max_response_bytes: Annotated[int, Strict(), Field(ge=0, le=1 << 20)] = 4096
    expires_after: PositiveDuration = timedelta(days=4)


@dataclass(frozen=True)
class RetryConfig:
    """Waits by `schedule`, its last one repeated, unless `base` is set: then base * factor ** n, at most `max`."""

    __pydantic_config__ = _STRICT

    schedule: Annotated[list[Duration], Field(min_length=1, max_length=100)] = field(
        default_factory=lambda: [
            parse_duration(text) for text in ("5s", "1m", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h")
        ]
    )
    base: PositiveDuration | None = None
    factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    max: PositiveDuration = timedelta(days=1)
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_attempts: Annotated[int, Strict(), Field(ge=1, le=1000)] = 11
    max_retry_after: Duration = timedelta(days=1)


@dataclass(frozen=True)
class DeactivationConfig:
    """A webhook without a success for `failing_for`, of which at least `min_attempts` failed, is switched off."""

    __pydantic_config__ = _STRICT

    failing_for: PositiveDuration = timedelta(days=3)
    min_attempts: Annotated[int, Strict(), Field(ge=1, le=1000)] = 10
    on_resume: Literal["resume", "discard"] = "resume"


@dataclass(frozen=True)
class EgressConfig:
    __pydantic_config__ = _STRICT

    allow_http: Annotated[bool, Strict()] = False
    allow: list[Network] = field(default_factory=list)
    deny: list[Network] = field(default_factory=list)
    ports: Annotated[list[Ports], Field(min_length=1)] = field(default_factory=lambda: [(443, 443), (8443, 8443)])
    ca_file: File | None = None
    proxy: Annotated[str, Strict(), AfterValidator(_proxy_url)] | None = None


@dataclass(frozen=True)
class HttpConfig:
    """`listen` None: there is no HTTP face."""

    __pydantic_config__ = _STRICT

    listen: Listen = field(default_factory=lambda: Address(IPv4Address("127.0.0.1"), 8747))
    token_file: File | None = None
    public_url: Annotated[str, Strict(), AfterValidator(_public_url)] | None = None


@dataclass(frozen=True)
class RetentionConfig:
    __pydantic_config__ = _STRICT

    events: PositiveDuration = timedelta(days=30)
    attempts: PositiveDuration = timedelta(days=30)


@dataclass(frozen=True)
class LogConfig:
    __pydantic_config__ = _STRICT

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


@dataclass(frozen=True)
class Config:
    __pydantic_config__ = _STRICT

    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    deactivation: DeactivationConfig = field(default_factory=DeactivationConfig)
    egress: EgressConfig = field(default_factory=EgressConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    log: LogConfig = field(default_factory=LogConfig)


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """The deployment's configuration. Raises ConfigurationError with every fault at once, each with its key."""
    faults: list[str] = []
    given = _read(path) if path is not None else {}
    _overlay(given, environment, faults)
    try:
        config = TypeAdapter(Config).validate_python(given)
    except ValidationError as invalid:
        faults += [_fault(error) for error in invalid.errors(include_url=False)]
    if faults:
        raise ConfigurationError(sorted(set(faults)))
    return _checked(config)


def secret(path: Path, key: str) -> str:
    """What a `*_file` key names, less one newline at its end. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigurationError([f"{key}: {path} cannot be read: {type(fault).__name__}"]) from None
    if not text:
        raise ConfigurationError([f"{key}: {path} is empty"])
    return text


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise ConfigurationError([f"{path}: there is no such configuration file"])
        with path.open("rb") as stream:
            octets = stream.read(_MAX_FILE_BYTES + 1)
        if len(octets) > _MAX_FILE_BYTES:
            raise ConfigurationError([f"{path}: is larger than a configuration can be (1 MiB)"])
        return tomllib.loads(octets.decode("utf-8"))
    except OSError as fault:
        raise ConfigurationError([f"{path}: cannot be read: {fault.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: is not UTF-8"]) from None
    except (ValueError, RecursionError) as fault:
        raise ConfigurationError([f"{path}: is not TOML: {fault}"]) from None


def _overlay(given: dict[str, Any], environment: Mapping[str, str], faults: list[str]) -> None:
    known = {
        f"{_ENVIRONMENT}{section.name}_{key.name}".upper(): (section.name, key.name)
        for section in fields(Config)
        for key in fields(section.default_factory)  # type: ignore[arg-type]
    }
    for name, text in environment.items():
        if not name.startswith(_ENVIRONMENT) or name in _NOT_SETTINGS:
            continue
        if name not in known:
            faults.append(f"{name}: is no setting{_nearest(name, known)}")
            continue
        section, key = known[name]
        table = given.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = _value(text)


def _value(text: str) -> object:
    """A number, a list, true or false as TOML writes them; anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _fault(error: Any) -> str:
    where = [str(part) for part in error["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    key = ".".join(where)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: is no setting{_nearest(where[-1], _keys(where[:-1]))}"
    if error["type"] == "dataclass_type":
        return f"{key}: must be a table, [{key}]"
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = "" if where[0] in _SECRET or key in _SECRET else f" (it is {error['input']!r})"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"


def _keys(section: list[str]) -> list[str]:
    if not section:
        return [item.name for item in fields(Config)]
    default = getattr(Config(), section[0], None)
    return [item.name for item in fields(default)] if is_dataclass(default) else []


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _checked(config: Config) -> Config:
    """What a single key cannot tell."""
    faults = []
    if config.database.dsn and config.database.dsn_file:
        faults.append("database.dsn: is given twice, here and in dsn_file: keep one")
    if config.keys.retired_files and config.keys.master_file is None:
        faults.append("keys.retired_files: retired master keys need a current one beside them: name its file in master_file")
    if config.delivery.connect_timeout > config.delivery.timeout:
        faults.append("delivery.connect_timeout: is longer than delivery.timeout, which covers the whole attempt")
    if config.retry.base is not None and config.retry.base > config.retry.max:
        faults.append("retry.base: is longer than retry.max")
    if config.egress.proxy is not None and config.egress.allow_http:
        faults.append("egress.allow_http: plain HTTP does not go through egress.proxy; keep one")
    if config.delivery.max_in_flight_per_webhook > config.delivery.max_in_flight:
        faults.append("delivery.max_in_flight_per_webhook: is more than delivery.max_in_flight")
    listen = config.http.listen
    if isinstance(listen, Address) and not listen.host.is_loopback and config.http.token_file is None:
        says = (
            f"{listen} can be reached from other machines: name a file with a token in http.token_file, or listen on 127.0.0.1"
        )
        faults.append(f"http.listen: {says} or on a unix socket")
    if faults:
        raise ConfigurationError(faults)
    return config
