"""/webhooks/.../test and /webhooks/.../replay: what is sent to one webhook because somebody asks for it."""

from __future__ import annotations

import asyncio
from http import HTTPMethod, HTTPStatus
from typing import Annotated, Any

from pydantic import Field

from bisd import control, insight
from bisd.admin.api.deliveries import Attempt
from bisd.admin.api.operation import Answer, Ask, Operation, Who
from bisd.admin.api.values import Given, Moment, Shown
from bisd.admin.desk import LONGEST, Desk

# Seconds from one look for the answer of a receiver to the next.
_EVERY = 0.05


class Test(Given):
    """So many seconds the answer is waited for."""

    wait: Annotated[float, Field(ge=0, le=20, strict=True)] = 15.0


class TestSent(Shown):
    """`attempt` is null if no daemon has sent the test in time: it goes out once one does, and its event can be shown."""

    event_id: int
    attempt: Attempt | None


class Replay(Given):
    """What happened from `since` until before `until` (null: now), or only what of it failed, expired or was refused."""

    since: Moment
    until: Moment | None = None
    only_failed: Annotated[bool, Field(strict=True)] = False
    per_second: Annotated[float, Field(strict=True, ge=0.001, le=100_000)] = 100.0


class Replayed(Shown):
    """How many deliveries are owed again."""

    deliveries: int


class Replaying(Shown):
    """How many deliveries of replays are still to go."""

    left: int


class ReplayCancelled(Shown):
    """How many deliveries were taken back."""

    deliveries: int


async def _test(ask: Ask[None, Test]) -> Answer:
    return Answer(TestSent(event_id=await control.send_test(ask.connection, await _own(ask)), attempt=None))


async def _answered(desk: Desk, sent: dict[str, Any], asked: Test) -> Answer:
    """With the attempt, as soon as there is one. No session of the desk's is kept meanwhile."""
    event_id = TestSent.model_validate(sent).event_id
    if desk.waiting.locked():  # many wait already: whoever asks may look later
        return Answer(TestSent(event_id=event_id, attempt=None))
    async with desk.waiting:
        until = asyncio.get_running_loop().time() + asked.wait
        while True:
            async with desk.connection() as connection:
                attempts = await insight.attempts(connection, event_id)
            if attempts or asyncio.get_running_loop().time() >= until:
                return Answer(TestSent(event_id=event_id, attempt=Attempt.of(attempts[0]) if attempts else None))
            await asyncio.sleep(_EVERY)


async def _replay(ask: Ask[None, Replay]) -> Answer:
    given, webhook_id = ask.body, await _own(ask)
    number = await control.replay(ask.connection, webhook_id, given.since, given.until, given.only_failed, given.per_second)
    return Answer(Replayed(deliveries=number))


async def _replaying(ask: Ask[None, None]) -> Answer:
    return Answer(Replaying(left=await insight.replaying(ask.connection, await _own(ask))))


async def _cancel_replay(ask: Ask[None, None]) -> Answer:
    return Answer(ReplayCancelled(deliveries=await control.cancel_replay(ask.connection, await _own(ask))))


async def _own(ask: Ask[Any, Any]) -> int:
    """The webhook of the path. Raises NotFoundError."""
    await insight.require_webhook(ask.connection, ask.ids["webhook_id"], ask.caller.account_id)
    return ask.ids["webhook_id"]


OPERATIONS = [
    Operation(
        HTTPMethod.POST, "/webhooks/{webhook_id}/test", "testWebhook",
        "Sends a test payload at once, whether it is on or off, and tells what the receiver answered.", "webhooks",
        Who.ACCOUNT, _test, TestSent, body=Test, finish=_answered,
    ),
    Operation(
        HTTPMethod.POST, "/webhooks/{webhook_id}/replay", "startReplay", "Owes again what was sent, missed or failed.",
        "webhooks", Who.ACCOUNT, _replay, Replayed, HTTPStatus.ACCEPTED, body=Replay, patience=LONGEST,
    ),
    Operation(
        HTTPMethod.GET, "/webhooks/{webhook_id}/replay", "showReplay", "How far its replays are.", "webhooks",
        Who.ACCOUNT, _replaying, Replaying,
    ),
    Operation(
        HTTPMethod.DELETE, "/webhooks/{webhook_id}/replay", "cancelReplay",
        "Takes back what replays have owed and nobody has tried yet.", "webhooks", Who.ACCOUNT, _cancel_replay, ReplayCancelled,
        patience=LONGEST,
    ),
]  # fmt: skip
