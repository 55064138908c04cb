"""What keys alone cannot tell: the files that they name, and what is allowed but hardly meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bisd import authorities, files, log
from bisd import config as configuration
from bisd.config import Config
from bisd.dsn import Dsn, parse_dsn
from bisd.errors import ConfigurationError
from bisd.keyring import Keyring


class Doubt(NamedTuple):
    """A key, and why it is doubtful, as a sentence that begins with the key."""

    key: str
    reason: str


def read(path: Path | None, environment: Mapping[str, str]) -> Config:
    """The daemon's configuration, with the files that it names. Raises ConfigurationError with every fault at once."""
    return configuration.load(path, environment, file_faults)


def tell(config: Config, path: Path | None) -> None:
    """A line of the log for everything that is doubtful."""
    for doubt in doubts(config, path):
        log.get().warning(log.Event.CONFIGURATION_DOUBTFUL, key=doubt.key, reason=doubt.reason)


def file_faults(config: Config) -> list[str]:
    """What is wrong with the files that the daemon reads, each with its key."""
    faults = []
    if config.database.dsn_file is not None:
        try:
            parse_dsn(configuration.secret(config.database.dsn_file, "database.dsn_file"))
        except ConfigurationError as fault:
            faults += fault.faults
        except ValueError as fault:
            faults.append(f"database.dsn_file: {config.database.dsn_file} {fault}")
    if config.egress.ca_file is not None:
        try:
            authorities.read(config.egress.ca_file)
        except ValueError as fault:
            faults.append(f"egress.ca_file: {config.egress.ca_file} {fault}")
    try:
        Keyring(config.keys)
    except ConfigurationError as fault:
        faults += fault.faults
    return faults


def doubts(config: Config, path: Path | None) -> list[Doubt]:
    """Of a configuration without faults, read from `path`."""
    return [*_about_secrets(config, path), *_about_database(config), *_about_authorities(config), *_about_the_rest(config)]


def _about_secrets(config: Config, path: Path | None) -> Iterator[Doubt]:
    dsn = config.database.dsn
    # What came from the environment is in no file.
    if dsn is not None and parse_dsn(dsn).has_password and path is not None and files.is_open_to_all(path):
        yield Doubt("database.dsn", "holds a password in a file that everybody may read: chmod o-r, or use dsn_file")
    named = [
        ("database.dsn_file", config.database.dsn_file),
        ("keys.master_file", config.keys.master_file),
        *((f"keys.retired_files.{number}", file) for number, file in enumerate(config.keys.retired_files)),
    ]
    for key, file in named:
        if file is not None and files.is_open_to_all(file):
            yield Doubt(key, "names a secret in a file that everybody may read: chmod o-r")


def _about_database(config: Config) -> Iterator[Doubt]:
    key, dsn = _database(config)
    if dsn is not None and not dsn.is_local and dsn.sslmode == "disable":
        yield Doubt(key, "sends passwords and bodies to another host in the clear: take sslmode=disable out")
    if dsn is not None and dsn.is_pooled:
        yield Doubt(key, "names the port of PgBouncer: it needs pool_mode=session, or better a direct connection")


def _database(config: Config) -> tuple[str, Dsn | None]:
    if config.database.dsn_file is not None:
        key = "database.dsn_file"
        return key, parse_dsn(configuration.secret(config.database.dsn_file, key))
    return "database.dsn", None if config.database.dsn is None else parse_dsn(config.database.dsn)


def _about_authorities(config: Config) -> Iterator[Doubt]:
    """An expired one stops nobody's start: all receivers that it does not vouch for can be delivered to."""
    if config.egress.ca_file is not None:
        for ended in authorities.read(config.egress.ca_file).expired:
            yield Doubt("egress.ca_file", f"has a certificate that expired on {ended:%Y-%m-%d}: whom it vouches for is refused")


def _about_the_rest(config: Config) -> Iterator[Doubt]:
    if config.deactivation.failing_for >= config.delivery.expires_after:
        reason = "is not shorter than delivery.expires_after: deliveries expire before their webhook is switched off"
        yield Doubt("deactivation.failing_for", reason)
    if config.log.payloads and config.log.level != "debug":
        yield Doubt("log.payloads", 'has no effect unless log.level is "debug"')
    if config.log.payloads and config.log.level == "debug":
        yield Doubt("log.payloads", "puts the data of customers into the log: not for longer than it takes to find a fault")
