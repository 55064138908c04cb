"""The types that pass between the stages: Delivery -> Message -> Answer -> Verdict -> Outcome.

Delivery, Message, Response and Outcome are made once per POST. They are named tuples: immutable as frozen dataclasses are,
and a third of their cost to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import ClassVar, NamedTuple, assert_never

SHARDS = 64


def shard_of(webhook_id: int) -> int:
    return webhook_id % SHARDS


class Members(NamedTuple):
    """The fleet, as bisd.members counts it: how many daemons, the shards that nobody holds, and how many members were ended
    just now because they take no answer."""

    number: int
    free: list[int]
    evicted: int


class Standing(NamedTuple):
    """How a webhook is doing, as its row says: the first failure since its last success, how many there were since, at how many
    percent of the way to its deactivation the owner was warned; and if it is parked, when it is probed next, and how many
    probes have failed."""

    failing_since: datetime | None = None
    failures: int = 0
    warned: int = 0
    next_probe_at: datetime | None = None
    probes: int = 0


WELL = Standing()


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
    ordered: bool = False
    rate: float | None = None
    headers: dict[str, str] | None = None
    """Its own, besides ours; None: it has none."""
    resumed_at: datetime | None = None
    """When it was last switched on."""
    recovered_at: datetime | None = None
    """When it took a probe, if that was a moment ago."""
    sent_at: datetime | None = None
    """When it was last sent something, if it has a rate."""
    standing: Standing = WELL


class Delivery(NamedTuple):
    """One event owed to one webhook: a row of queries/refill.sql. `attempts` have been made already; `size` is the body's, in
    octets, as the database counted it; `traceparent`: the application's trace, if it gave one."""

    webhook_id: int
    event_id: int
    event_created_at: datetime
    owed_since: datetime
    due_at: datetime
    attempts: int
    topic: str
    body: bytes
    size: int
    test: bool = False
    traceparent: str | None = None


class Message(NamedTuple):
    """The exact request: what is POSTed, where, under which headers."""

    url: str
    headers: dict[str, str]
    body: bytes


class Code(StrEnum):
    """Why an attempt was not taken. Decided by the type of what was raised, never by its text."""

    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TLS_EXPIRED = "tls_expired"
    TLS_NAME = "tls_name"
    TLS_UNTRUSTED = "tls_untrusted"
    DISCONNECTED = "disconnected"
    BAD_RESPONSE = "bad_response"
    TOO_BIG = "too_big"
    STATUS = "status"
    REDIRECT = "redirect"
    REFUSED_ADDRESS = "refused_address"
    REFUSED_URL = "refused_url"
    BODY_TOO_BIG = "body_too_big"
    EVENT_GONE = "event_gone"
    RESOLVER = "resolver"
    NETWORK = "network"
    INTERNAL = "internal"


class Timings(NamedTuple):
    """Milliseconds: resolving, connecting, the handshake of TLS (None for plain HTTP; all three None on a connection that was
    kept alive), until the status, in all."""

    dns: float | None
    connect: float | None
    tls: float | None
    first_byte: float | None
    total: float


class Response(NamedTuple):
    """The receiver answered with a status (0 to 999). `body` is the first bytes of the answer; `resent`: the request went out
    twice, the first time on a connection that was closed already."""

    status: int
    retry_after: str | None
    body: bytes
    timings: Timings
    resent: bool = False
    location: str | None = None


class NoResponse(NamedTuple):
    """The receiver did not answer, or with something that is not HTTP."""

    code: Code
    timings: Timings
    resent: bool = False


class Refusal(NamedTuple):
    """We did not POST, and shall not: the URL, its address or the body is not permitted."""

    code: Code


class Fault(NamedTuple):
    """We could not POST, or not to the end, by a fault of our own: the receiver is not to blame."""

    code: Code


Answer = Response | NoResponse | Refusal | Fault


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
class Postponed:
    """Not sent, by a fault of our own: to be tried at `due_at`, and nothing is counted."""

    word: ClassVar[str] = "postponed"

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
Verdict = Delivered | Retry | Postponed | GaveUp | Expired | Refused


class Took(Enum):
    """What an attempt says of the receiver."""

    YES = "yes"
    NO = "no"
    GONE = "gone"
    """It will never take anything again (410)."""
    UNKNOWN = "unknown"
    """Nothing: it was not asked."""
    OURS = "ours"
    """Nothing: the fault was ours."""


class Outcome(NamedTuple):
    """What writeback writes: the verdict on a delivery, and the answer it rests on (None: it was settled without a POST)."""

    delivery: Delivery
    attempted_at: datetime
    answer: Answer | None
    verdict: Verdict

    def owed(self) -> Delivery | None:
        """The delivery as it is owed from now on; None: it is settled."""
        match self.verdict:
            case Retry(due_at=due_at):
                return self.delivery._replace(attempts=self.delivery.attempts + 1, due_at=due_at)
            case Postponed(due_at=due_at):
                return self.delivery._replace(due_at=due_at)
            case Delivered() | GaveUp() | Expired() | Refused():
                return None
            case _:
                assert_never(self.verdict)
