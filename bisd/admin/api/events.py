"""/events: what happened."""

from __future__ import annotations

from datetime import datetime
from http import HTTPMethod, HTTPStatus
from typing import Annotated

from pydantic import Field

from bisd import control, insight
from bisd.admin.api.operation import PREFIX, Answer, Ask, Json, Operation, Who
from bisd.admin.api.values import Given, Number, Shown, Text


class Event(Shown):
    """`body` is the text that is signed and sent, to the byte. `webhook_id`: the webhook that it is about, if it is about
    one."""

    id: int
    account_id: int
    topic: str
    body: str
    created_at: datetime
    webhook_id: int | None
    test: bool
    traceparent: str | None


class EventMade(Shown):
    id: int


class NewEvent(Given):
    topic: Annotated[Text, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
    account_id: Number | None = None


async def _emit(ask: Ask[NewEvent, Json]) -> Answer:
    account_id = await ask.required(ask.query.account_id)
    event_id = await control.emit(ask.connection, account_id, ask.query.topic, ask.body)
    return Answer(EventMade(id=event_id), {"Location": f"{PREFIX}/events/{event_id}"})


async def _show(ask: Ask[None, None]) -> Answer:
    row = await insight.event(ask.connection, ask.ids["event_id"], ask.caller.account_id)
    return Answer(Event.model_validate(row))


OPERATIONS = [
    Operation(
        HTTPMethod.POST, "/events", "emitEvent",
        "An event of any topic. The request's body is the event's: it is sent byte for byte.", "events",
        Who.ACCOUNT, _emit, EventMade, HTTPStatus.CREATED, query=NewEvent, body=Json,
    ),
    Operation(
        HTTPMethod.GET, "/events/{event_id}", "showEvent", "One event, with its body.", "events", Who.ACCOUNT, _show, Event,
    ),
]  # fmt: skip
