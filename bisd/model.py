"""The types that pass between the stages: Delivery -> Message -> Answer -> Verdict -> Outcome.

Delivery, Message, Response and Outcome are made once per POST. They are named tuples: immutable as frozen dataclasses are,
and a third of their cost to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, NamedTuple

SHARDS = 64


def shard_of(webhook_id: int) -> int:
    return webhook_id % SHARDS


class Webhook(NamedTuple):
    """A subscription, as far as sending needs it: a row of queries/webhooks.sql."""

    id: int
    account_id: int
    url: str
    api_key: str
    previous_api_key: str | None
    previous_until: datetime | None
    max_in_flight: int | None
    live: bool
    """Switched on, and the account's plan includes webhooks."""


class Delivery(NamedTuple):
    """One event owed to one webhook: a row of queries/refill.sql. `attempts` have been made already; `size` is the body's, in
    octets, as the database counted it."""

    webhook_id: int
    event_id: int
    event_created_at: datetime
    owed_since: datetime
    due_at: datetime
    attempts: int
    topic: str
    body: bytes
    size: int


class Message(NamedTuple):
    """The exact request: what is POSTed, where, under which headers."""

    url: str
    headers: dict[str, str]
    body: bytes


class Code(StrEnum):
    """Why an attempt brought no status. Decided by the type of what was raised, never by its text."""

    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    DISCONNECTED = "disconnected"
    BAD_RESPONSE = "bad_response"
    REFUSED_ADDRESS = "refused_address"
    REFUSED_URL = "refused_url"
    BODY_TOO_BIG = "body_too_big"
    EVENT_GONE = "event_gone"
    INTERNAL = "internal"


class Timings(NamedTuple):
    """Milliseconds: resolving, connecting (TCP and TLS; both None on a connection kept alive), until the status, in all."""

    dns: float | None
    connect: float | None
    first_byte: float | None
    total: float


class Response(NamedTuple):
    """The receiver answered with a status (0 to 999). `body` is the first bytes of the answer."""

    status: int
    retry_after: str | None
    body: bytes
    timings: Timings


class NoResponse(NamedTuple):
    """The receiver did not answer, or with something that is not HTTP."""

    code: Code
    timings: Timings


class Refusal(NamedTuple):
    """We did not POST, and shall not: the URL, its address or the body is not permitted."""

    code: Code


Answer = Response | NoResponse | Refusal


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver took it."""

    word: ClassVar[str] = "delivered"


@dataclass(frozen=True, slots=True)
class Retry:
    """Not taken; to be tried again at `due_at`."""

    word: ClassVar[str] = "retry"

    due_at: datetime


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Not taken, and the schedule has ended."""

    word: ClassVar[str] = "failed"


@dataclass(frozen=True, slots=True)
class Expired:
    """Not taken within its lifetime."""

    word: ClassVar[str] = "expired"


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not be sent at all."""

    word: ClassVar[str] = "refused"


# `word` is the verdict as the database, the log and the command line spell it.
Verdict = Delivered | Retry | GaveUp | Expired | Refused


class Outcome(NamedTuple):
    """What writeback writes: the verdict on a delivery, and the answer it rests on (None: it was settled without a POST)."""

    delivery: Delivery
    attempted_at: datetime
    answer: Answer | None
    verdict: Verdict
