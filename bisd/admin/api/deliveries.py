"""/deliveries: what is owed of each event to each webhook, and what was tried."""

from __future__ import annotations

from datetime import datetime
from http import HTTPMethod
from typing import Annotated, Literal

from pydantic import Field

from bisd import control, insight
from bisd.admin.api.operation import Answer, Ask, Operation, Who
from bisd.admin.api.values import Given, Identifier, Limit, Moment, Number, Shown, Text
from bisd.errors import NotFoundError
from bisd.listing import Cursor, Row

State = Literal["pending", "retrying", "held", "delivered", "failed", "expired", "cancelled", "refused"]


class Delivery(Shown):
    event_id: int
    webhook_id: int
    account_id: int
    topic: str
    state: State
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    settled_at: datetime | None


class Deliveries(Shown):
    """`next`: the `after` of the following page; null if there is none. A page may have few items, and be followed: what is
    looked at for one is bounded."""

    items: list[Delivery]
    next: str | None


class Attempt(Shown):
    """One POST and what came of it; without a number, what became of the delivery without one. `answer` is the first of what
    the receiver said, `code` why there is no status."""

    webhook_id: int
    number: int | None
    attempted_at: datetime
    verdict: Literal["delivered", "retry", "postponed", "failed", "expired", "refused", "cancelled"]
    status: int | None
    code: str | None
    due_at: datetime | None
    dns_ms: float | None
    connect_ms: float | None
    tls_ms: float | None
    first_byte_ms: float | None
    total_ms: float | None
    resent: bool
    location: str | None
    answer: str | None

    @classmethod
    def of(cls, row: Row) -> Attempt:
        answer = row["answer"]
        return cls.model_validate(row | {"answer": answer.decode("utf-8", "replace") if isinstance(answer, bytes) else None})


class DeliveryShown(Shown):
    """An event's deliveries, and their attempts in order."""

    deliveries: list[Delivery]
    attempts: list[Attempt]


class DeliveriesWanted(Given):
    """`since` and `until` bound when it was tried last; of one that was not tried yet, when its event happened."""

    account_id: Number | None = None
    webhook_id: Number | None = None
    event_id: Number | None = None
    state: State | None = None
    topic: Annotated[Text, Field(max_length=128)] | None = None
    since: Moment | None = None
    until: Moment | None = None
    after: Annotated[Text, Field(max_length=400)] | None = None
    limit: Limit = 50


class Which(Given):
    """To this webhook alone, if one is named."""

    webhook_id: Identifier | None = None


class Changed(Shown):
    """To how many webhooks the event is due, or not owed any more."""

    webhooks: int


async def _list(ask: Ask[DeliveriesWanted, None]) -> Answer:
    wanted = ask.query
    account_id = await ask.account(wanted.account_id)
    page = await insight.deliveries(
        ask.connection,
        account_id=account_id,
        webhook_id=wanted.webhook_id,
        event_id=wanted.event_id,
        state=wanted.state,
        topic=wanted.topic,
        since=wanted.since,
        until=wanted.until,
        after=None if wanted.after is None else Cursor.parse(wanted.after),
        most=wanted.limit,
    )
    items = [Delivery.model_validate(row) for row in page.rows]
    return Answer(Deliveries(items=items, next=None if page.next is None else str(page.next)))


async def _show(ask: Ask[None, None]) -> Answer:
    deliveries, attempts = await insight.delivery(ask.connection, ask.ids["event_id"], ask.caller.account_id)
    rows = [Delivery.model_validate(row) for row in deliveries]
    return Answer(DeliveryShown(deliveries=rows, attempts=[Attempt.of(row) for row in attempts]))


async def _retry(ask: Ask[None, Which]) -> Answer:
    event_id = ask.ids["event_id"]
    number = await control.retry(ask.connection, event_id, ask.body.webhook_id, ask.caller.account_id)
    return _changed(event_id, number)


async def _cancel(ask: Ask[None, Which]) -> Answer:
    event_id = ask.ids["event_id"]
    number = await control.cancel(ask.connection, event_id, ask.body.webhook_id, ask.caller.account_id)
    return _changed(event_id, number)


def _changed(event_id: int, number: int) -> Answer:
    if number == 0:
        raise NotFoundError(kind="delivery of event", key=f"{event_id} to be changed", listing=f"bisd delivery show {event_id}")
    return Answer(Changed(webhooks=number))


OPERATIONS = [
    Operation(
        HTTPMethod.GET, "/deliveries", "listDeliveries", "Deliveries, those with which something happened last first.",
        "deliveries", Who.ACCOUNT, _list, Deliveries, query=DeliveriesWanted,
    ),
    Operation(
        HTTPMethod.GET, "/deliveries/{event_id}", "showDelivery", "What an event owed to whom, and every attempt.",
        "deliveries", Who.ACCOUNT, _show, DeliveryShown,
    ),
    Operation(
        HTTPMethod.POST, "/deliveries/{event_id}/retry", "retryDelivery",
        "Sends an event again, now: what is owed without waiting, what was settled with a schedule of its own.", "deliveries",
        Who.ACCOUNT, _retry, Changed, body=Which,
    ),
    Operation(
        HTTPMethod.POST, "/deliveries/{event_id}/cancel", "cancelDelivery", "Cancels what is still owed of an event.",
        "deliveries", Who.ACCOUNT, _cancel, Changed, body=Which,
    ),
]  # fmt: skip
