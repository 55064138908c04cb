"""Log events: every name in one place, fields beside it, never a sentence with holes.

Nothing secret and nobody's data is ever a field: no key, no signature, no body, no URL beyond its host, no text of an error
that a peer may have written. PAYLOAD is what somebody asked for, by [log] payloads.

Nor does telling ever stop what is told about: a storm of lines is summed up, and standard error may be gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any, TextIO, cast

import structlog

# Lines of one event in one second; more than that nobody reads, and each costs a third of what a delivery does.
_MOST_PER_SECOND = 50
# sd-daemon(3): what journald takes for the priority of a line.
_PRIORITIES = {"critical": "<2>", "error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}


class Event(StrEnum):
    """What is worth a line, with its fields."""

    STARTED = "started"  # version
    CONFIGURATION_DOUBTFUL = "configuration_doubtful"  # key, reason
    FILES_FEW = "files_few"  # limit, needed
    READY = "ready"
    RELOADED = "reloaded"  # changed
    RELOAD_REFUSED = "reload_refused"  # faults
    CONFIGURATION_UNCHANGED = "configuration_unchanged"  # keys
    STALLED = "stalled"  # loops, lag
    STOPPING = "stopping"  # in_flight
    STOPPED = "stopped"
    SCHEMA_DRIFTED = "schema_drifted"  # count, things
    DATABASE_LOST = "database_lost"  # error, what
    DATABASE_REFUSES = "database_refuses"  # error, what, reason, advice
    DATABASE_BACK = "database_back"
    SHARDS_TAKEN = "shards_taken"  # count, held, members
    SHARDS_RELEASED = "shards_released"  # count, held, members
    MEMBER_EVICTED = "member_evicted"  # count
    ATTEMPT_FAILED = "attempt_failed"  # webhook_id, event_id, number, verdict, status, code
    PAYLOAD = "payload"  # webhook_id, event_id, body, answer
    KEY_UNREADABLE = "key_unreadable"  # account_id, webhook_id
    KEYS_SEALED = "keys_sealed"  # count
    WEBHOOK_DEACTIVATED = "webhook_deactivated"  # webhook_id, reason
    REPORT_REFUSED = "report_refused"  # webhook_id, error, reason
    SILENCE = "silence"  # seconds
    OUTAGE = "outage"  # code, seconds
    OUTAGE_OVER = "outage_over"  # seconds
    WRITEBACK_FENCED = "writeback_fenced"  # count
    INTERNAL_FAULT = "internal_fault"  # error, where
    PARTITIONS_MADE = "partitions_made"  # count
    PARTITIONS_DROPPED = "partitions_dropped"  # names
    HOUSEKEEPING_PUT_OFF = "housekeeping_put_off"  # error
    RESTAMPED = "restamped"  # count
    HTTP_LISTENING = "http_listening"  # address
    ORDER = "order"  # operation, account_id, about
    BACKLOG_UNKNOWN = "backlog_unknown"  # error

    SUPPRESSED = "suppressed"  # of, count
    LIBRARY = "library"  # name, where


class _Sink:
    """Standard error, for as long as somebody reads it: a disk that is full, or a reader that is gone, is no reason to deliver
    nothing."""

    def write(self, line: str) -> None:
        with suppress(OSError):
            sys.stderr.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure(level: str, form: str) -> None:
    """Lines to standard error from `level` on; `form` is json, console, or auto: JSON, unless a terminal reads them."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    # Its own tracebacks would show local variables: keys and bodies among them.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = plain if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            Storm(_MOST_PER_SECOND),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
            *([_prioritize] if _is_journal() else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Sink())),
        cache_logger_on_first_use=False,
    )
    if not console:
        logging.lastResort = _Libraries(logging.WARNING)


@dataclass(slots=True)
class _Second:
    """One event's lines since `began`: how many have passed, and how many were kept back."""

    began: float
    passed: int = 0
    kept: int = 0


class Storm:
    """Lets `most` lines of each event pass in a second; those kept back are told by one line, when the second is over."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds: dict[str, _Second] = {}

    def __call__(self, _: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A processor of structlog's. Raises structlog.DropEvent."""
        event, now = line["event"], monotonic()
        second = self._seconds.get(event)
        if second is None or now - second.began >= 1.0:
            self._tell(event, method)
            second = self._seconds[event] = _Second(now)
        if second.passed < self._most:
            second.passed += 1
            return line
        second.kept += 1
        if second.kept == 1:
            with suppress(RuntimeError):  # without a loop, the next line of this event tells
                asyncio.get_running_loop().call_later(second.began + 1.0 - now, self._tell, event, method)
        raise structlog.DropEvent

    def _tell(self, event: str, method: str) -> None:
        second = self._seconds.get(event)
        if second is not None and second.kept:
            kept, second.kept = second.kept, 0
            getattr(get(), method)(Event.SUPPRESSED, of=event, count=kept)


class _Libraries(logging.Handler):
    """What a library logs, where nobody has set up otherwise: that it did, and where; its text may quote anything."""

    def emit(self, record: logging.LogRecord) -> None:
        get().warning(Event.LIBRARY, name=record.name, where=f"{record.filename}:{record.lineno}")


def _is_journal() -> bool:
    """Whether standard error leads to journald, by systemd.exec(5): $JOURNAL_STREAM is its device and inode."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _prioritize(_: object, method: str, line: Any) -> str:
    return "\n".join(_PRIORITIES[method] + part for part in line.split("\n"))


def place(fault: BaseException) -> str:
    """Where a fault was raised, as file:line, innermost; without its text, which may quote what it was about."""
    frames = traceback.extract_tb(fault.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def get() -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
