"""This host: who else may read what is secret, and how many files may be open."""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bisd.check.finding import Finding, Subject, ok, unseen, warning
from bisd.config import Config

# The database, names being resolved, connections that are kept open for a moment.
_OTHER_FILES = 200


def files(config: Config, file: Path | None) -> list[Finding]:
    """Modes of the configuration and of the files it names."""
    found = [finding for path, secret in _secrets(config, file) for finding in _judge(path, secret)]
    return found or [ok(Subject.FILES, "nobody else may read what is secret, or change what bisd reads")]


def limits(config: Config) -> list[Finding]:
    """Of this shell; a service has those of its unit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_needed(config)
    if hard != resource.RLIM_INFINITY and hard < needed:
        says = f"{hard} files may be open here, [delivery] max_in_flight asks for {needed}: raise LimitNOFILE, or lower it"
        return [warning(Subject.LIMITS, says)]
    return [ok(Subject.LIMITS, f"as many files may be open as [delivery] max_in_flight asks for ({needed})")]


def files_needed(config: Config) -> int:
    """Descriptors that a daemon may need."""
    return config.delivery.max_in_flight + _OTHER_FILES


def _secrets(config: Config, file: Path | None) -> Iterator[tuple[Path, str]]:
    """Files, and the secret that each holds; '' for none."""
    if file is not None:
        yield file, "a database password" if _has_password(config.database.dsn) else ""
    if config.database.dsn_file is not None:
        yield config.database.dsn_file, "the database's URL"
    for path in (config.keys.master_file, *config.keys.retired_files):
        if path is not None:
            yield path, "a master key"
    if config.egress.ca_file is not None:
        yield config.egress.ca_file, ""


def _judge(path: Path, secret: str) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError as gone:
        yield unseen(Subject.FILES, f"{path} cannot be looked at ({type(gone).__name__})")
        return
    if secret and mode & stat.S_IROTH:
        yield warning(Subject.FILES, f"{path} holds {secret}, and everybody on this host may read it: chmod o-rwx {path}")
    if mode & stat.S_IWOTH:
        yield warning(Subject.FILES, f"everybody on this host may change {path}: chmod o-w {path}")


def _has_password(dsn: str | None) -> bool:
    try:
        return dsn is not None and (bool(urlsplit(dsn).password) or "password=" in urlsplit(dsn).query)
    except ValueError:
        return False
