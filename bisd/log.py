"""Log events: every name in one place, fields beside it, never a sentence with holes.

Nothing secret and nobody's data is ever a field: no key, no signature, no body, no URL beyond its host, no text of an error
that a peer may have written. PAYLOAD is what somebody asked for, by [log] payloads.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO, cast

import structlog


class Event(StrEnum):
    """What is worth a line, with its fields."""

    STARTED = "started"  # version
    CONFIGURATION_DOUBTFUL = "configuration_doubtful"  # key, reason
    FILES_FEW = "files_few"  # limit, needed
    READY = "ready"  # shards
    RELOADED = "reloaded"  # changed
    RELOAD_REFUSED = "reload_refused"  # faults
    CONFIGURATION_UNCHANGED = "configuration_unchanged"  # keys
    STALLED = "stalled"  # loops, lag
    STOPPING = "stopping"  # in_flight
    STOPPED = "stopped"
    DATABASE_LOST = "database_lost"  # error, what
    DATABASE_BACK = "database_back"
    SHARDS_TAKEN = "shards_taken"  # count, held, members
    SHARDS_RELEASED = "shards_released"  # count, held, members
    MEMBER_EVICTED = "member_evicted"  # count
    ATTEMPT_FAILED = "attempt_failed"  # webhook_id, event_id, number, verdict, status, code
    PAYLOAD = "payload"  # webhook_id, event_id, body, answer
    KEY_UNREADABLE = "key_unreadable"  # account_id, webhook_id
    KEYS_SEALED = "keys_sealed"  # count
    WEBHOOK_DEACTIVATED = "webhook_deactivated"  # webhook_id, reason
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
    BACKLOG_UNKNOWN = "backlog_unknown"  # error


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
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Sink())),
        cache_logger_on_first_use=False,
    )


def place(fault: BaseException) -> str:
    """Where a fault was raised, as file:line, innermost; without its text, which may quote what it was about."""
    frames = traceback.extract_tb(fault.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def get() -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
