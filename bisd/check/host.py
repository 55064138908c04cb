"""This host: what is doubtful in the configuration and its files, and how many files may be open."""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from pathlib import Path

from bisd import scrutiny
from bisd.check.finding import Finding, Subject, ok, unseen, warning
from bisd.config import Config

# The database, names being resolved, connections that are kept open for a moment, and those of the HTTP face.
_OTHER_FILES = 200
# Where an operator installs units: what stands there decides what runs, and as whom.
_UNITS = Path("/etc/systemd/system")


def configuration(config: Config, file: Path | None, units: Path = _UNITS) -> list[Finding]:
    """What is allowed but hardly meant, as the daemon says it at its start; and files that others may change, units among them.
    What cannot be read here a service may be given as a credential."""
    found = [unseen(Subject.CONFIGURATION, fault) for fault in scrutiny.file_faults(config)]
    if not found:
        doubts = scrutiny.doubts(config, file)
        found = [warning(Subject.CONFIGURATION, f"{doubt.key} {doubt.reason}") for doubt in doubts]
    for path in (*_files(config, file), *units.glob("bisd*.service"), *units.glob("bisd*.service.d/*.conf")):
        if _is_open(path):
            found.append(warning(Subject.CONFIGURATION, f"everybody on this host may change {path}: chmod o-w {path}"))
    return found or [ok(Subject.CONFIGURATION, "nothing is doubtful, and nobody else may change what bisd reads")]


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


def _files(config: Config, file: Path | None) -> Iterator[Path]:
    """Everything that a daemon reads."""
    named = (file, config.database.dsn_file, config.keys.master_file, *config.keys.retired_files, config.egress.ca_file)
    yield from (path for path in (*named, config.http.token_file) if path is not None)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False
