"""What the doctor finds."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """`unseen`: it could not be looked at, for this role may not."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    UNSEEN = "unseen"


class Subject(StrEnum):
    """What is looked at, in this order."""

    CONFIGURATION = "configuration"
    LIMITS = "limits"
    DATABASE = "database"
    ROLE = "role"
    SESSION = "session"
    CLOCK = "clock"
    SETTINGS = "settings"
    SCHEMA = "schema"
    RIGHTS = "rights"
    TRIGGERS = "triggers"
    PARTITIONS = "partitions"
    TRANSACTIONS = "transactions"
    SLOTS = "slots"
    QUEUE = "queue"
    BLOAT = "bloat"
    KEYS = "keys"
    EGRESS = "egress"
    HOSTS = "hosts"


class Finding(NamedTuple):
    """What was looked at, how it is, and in a sentence what to do about it."""

    level: Level
    subject: Subject
    says: str


def ok(subject: Subject, says: str) -> Finding:
    return Finding(Level.OK, subject, says)


def warning(subject: Subject, says: str) -> Finding:
    return Finding(Level.WARNING, subject, says)


def fault(subject: Subject, says: str) -> Finding:
    return Finding(Level.FAULT, subject, says)


def unseen(subject: Subject, says: str) -> Finding:
    return Finding(Level.UNSEEN, subject, says)


def some(names: list[str], most: int = 20) -> str:
    """As many as one reads."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def age(seconds: float) -> str:
    """For how long, in the largest unit of which there are two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
