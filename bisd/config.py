"""The configuration of one deployment: a TOML file, overridden by BISD_SECTION_KEY from the environment.

`Config` and its sections are the only list of keys and defaults; config/bisd.toml shows the same, held equal by a test.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

from bisd import files
from bisd.address import Address
from bisd.errors import ConfigurationError
from bisd.values import (
    AllowedNetwork,
    DatabaseUrl,
    Duration,
    File,
    KeyFile,
    Listen,
    Network,
    Ports,
    PositiveDuration,
    ProxyUrl,
    PublicUrl,
    parse_duration,
)

_STRICT = ConfigDict(extra="forbid")
_ENVIRONMENT = "BISD_"
# Sections and keys whose values no fault shows: somebody may have put a password there.
_SECRET = {"database", "keys", "egress.proxy"}
# The command line's own.
_NOT_SETTINGS = {"BISD_CONFIG", "BISD_LISTEN_KEY"}
# Credentials of systemd that serve where nothing else is named: of which section, under which key, and instead of which.
_CREDENTIALS = {"dsn": ("database", "dsn_file", "dsn"), "master": ("keys", "master_file", "master_file")}
_MOST_SHOWN = 80


@dataclass(frozen=True)
class DatabaseConfig:
    """`dsn` None and no `dsn_file`: the embedded PostgreSQL serves."""

    __pydantic_config__ = _STRICT

    dsn: DatabaseUrl | None = None
    dsn_file: File | None = None
    pool_size: Annotated[int, Strict(), Field(ge=1, le=100)] = 4


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
    factor: Annotated[float, Strict(), Field(ge=1, le=100)] = 2.0
    max: PositiveDuration = timedelta(days=1)
    jitter: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.1
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
    allow: list[AllowedNetwork] = field(default_factory=list)
    deny: list[Network] = field(default_factory=list)
    ports: Annotated[list[Ports], Field(min_length=1)] = field(default_factory=lambda: [(443, 443), (8443, 8443)])
    ca_file: File | None = None
    proxy: ProxyUrl | None = None


@dataclass(frozen=True)
class HttpConfig:
    """`listen` None: there is no HTTP face."""

    __pydantic_config__ = _STRICT

    listen: Listen = field(default_factory=lambda: Address(IPv4Address("127.0.0.1"), 8747))
    token_file: File | None = None
    public_url: PublicUrl | None = None


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
    payloads: Annotated[bool, Strict()] = False


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


def load(path: Path | None, environment: Mapping[str, str], examine: Callable[[Config], list[str]] = lambda _: []) -> Config:
    """The deployment's configuration. Raises ConfigurationError with every fault at once, each with its key; `examine` may
    find more, in what is right so far."""
    faults: list[str] = []
    given = _read(path) if path is not None else {}
    _overlay(given, environment, faults)
    _add_credentials(given, environment)
    config, wrong = _validate(given, faults)
    for keys, sentence in _contradictions(config):
        if not any(key in wrong or key.partition(".")[0] in wrong for key in keys):
            faults.append(f"{keys[0]}: {sentence}")
    faults += examine(config)
    if faults:
        raise ConfigurationError(sorted(set(faults)))
    return config


def secret(path: Path, key: str) -> str:
    """What a `*_file` key names, less one newline at its end. Raises ConfigurationError."""
    try:
        text = re.sub(r"\r?\n\Z", "", files.read(path).decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError([f"{key}: {path} is not text in UTF-8"]) from None
    except ValueError as fault:
        raise ConfigurationError([f"{key}: {path} {fault}"]) from None
    if not text:
        raise ConfigurationError([f"{key}: {path} is empty"])
    return text


def _read(path: Path) -> dict[str, Any]:
    try:
        octets = files.read(path)
        if octets.startswith(b"\xef\xbb\xbf"):
            raise ValueError("begins with a byte order mark: save it without one, as plain UTF-8")
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: is not UTF-8"]) from None
    except ValueError as fault:
        raise ConfigurationError([f"{path}: {fault}"]) from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ConfigurationError([f"{path}: is not TOML: {fault}"]) from None


def _validate(given: dict[str, Any], faults: list[str]) -> tuple[Config, set[str]]:
    """The configuration, what is wrong left at its default, and the keys that are: `section.key`, or a whole `section`."""
    adapter = _adapter()
    try:
        return adapter.validate_python(given), set()
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    faults += map(_fault, errors)
    wrong = {".".join(map(str, error["loc"][:2])) for error in errors}
    for key in wrong:
        section, _, name = key.partition(".")
        if name:
            given[section].pop(name)
        else:
            given.pop(section)
    return adapter.validate_python(given), wrong


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _add_credentials(given: dict[str, Any], environment: Mapping[str, str]) -> None:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    for name, (section, key, instead) in _CREDENTIALS.items():
        table = given.setdefault(section, {})
        if directory and isinstance(table, dict) and not {key, instead} & table.keys():
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                table[key] = path


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
        return f"{key}: is no setting{_home(where[-1]) or _nearest(where[-1], _keys(where[:-1]))}"
    if error["type"] == "dataclass_type":
        return f"{key}: must be a table, [{key}]"
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = "" if where[0] in _SECRET or key in _SECRET else f" (it is {_shortened(repr(error['input']))})"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _keys(section: list[str]) -> list[str]:
    if not section:
        return [item.name for item in fields(Config)]
    default = getattr(Config(), section[0], None)
    return [item.name for item in fields(default)] if is_dataclass(default) else []


def _home(name: str) -> str:
    """Where a key belongs that stands in another section."""
    homes = [f"[{section}]" for section in _keys([]) if name in _keys([section])]
    return f"; it belongs to {' or '.join(homes)}" if homes else ""


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _contradictions(config: Config) -> Iterator[tuple[tuple[str, str], str]]:
    """What a single key cannot tell: the two that do not go together, and what the first one is."""
    if config.database.dsn and config.database.dsn_file:
        yield ("database.dsn", "database.dsn_file"), "is given twice, here and in dsn_file: keep one"
    if config.keys.retired_files and config.keys.master_file is None:
        sentence = "retired master keys need a current one beside them: name its file in master_file"
        yield ("keys.retired_files", "keys.master_file"), sentence
    if config.delivery.connect_timeout > config.delivery.timeout:
        sentence = "is longer than delivery.timeout, which covers the whole attempt"
        yield ("delivery.connect_timeout", "delivery.timeout"), sentence
    if config.retry.base is not None and config.retry.base > config.retry.max:
        yield ("retry.base", "retry.max"), "is longer than retry.max"
    if config.egress.proxy is not None and config.egress.allow_http:
        yield ("egress.allow_http", "egress.proxy"), "plain HTTP does not go through egress.proxy; keep one"
    if config.delivery.max_in_flight_per_webhook > config.delivery.max_in_flight:
        yield ("delivery.max_in_flight_per_webhook", "delivery.max_in_flight"), "is more than delivery.max_in_flight"
    listen = config.http.listen
    if isinstance(listen, Address) and not listen.host.is_loopback and config.http.token_file is None:
        sentence = "can be reached from other machines: name a file with a token in http.token_file, or listen on 127.0.0.1"
        yield ("http.listen", "http.token_file"), f"{listen} {sentence} or on a unix socket"
