"""/webhooks: subscriptions, and how they are doing."""

from __future__ import annotations

from datetime import datetime
from http import HTTPMethod, HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import Field

from bisd import control, insight
from bisd.admin.api.operation import PREFIX, Answer, Ask, Operation, Who
from bisd.admin.api.values import After, Given, Identifier, Limit, Number, Shown, Text
from bisd.admin.desk import LONGEST
from bisd.admin.problem import ProblemError
from bisd.egress import Egress

Topic = Annotated[Text, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
Url = Annotated[Text, Field(min_length=1, max_length=2048)]
State = Literal["off", "not in plan", "well", "failing", "parked", "deactivated"]


class WebhookListed(Shown):
    id: int
    account_id: int
    topic: str
    url: str
    description: str
    enabled: bool
    in_plan: bool
    state: State
    created_at: datetime


class Webhook(WebhookListed):
    """`headers` are the names of its own headers: their values are told to nobody. `note` says in words how it is."""

    note: str
    max_in_flight: int | None
    rate: float | None
    ordered: bool
    headers: list[str]
    filter: str | None
    switched_at: datetime | None


class Webhooks(Shown):
    """`next`: the `after` of the following page; null if there is none."""

    items: list[WebhookListed]
    next: int | None


class Health(Shown):
    """`success_rate` is that of its last 1,000 attempts, `streak` how many of them failed since the last success; `backlog` is
    what it is owed, counted up to 10,000."""

    webhook_id: int
    account_id: int
    topic: str
    state: State
    note: str
    success_rate: float | None
    last_success_at: datetime | None
    streak: int
    failing_since: datetime | None
    deactivates_at: datetime | None
    next_probe_at: datetime | None
    backlog: int
    oldest_waiting: datetime | None


class Settings(Given):
    """Those that are named are changed; null sets one back to its default."""

    description: Annotated[Text, Field(max_length=200)] | None = None
    max_in_flight: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    rate: Annotated[float, Field(strict=True, ge=0.001, le=100_000)] | None = None
    ordered: Annotated[bool, Field(strict=True)] | None = None
    headers: Annotated[dict[Text, Text], Field(max_length=16)] | None = None
    filter: Annotated[Text, Field(min_length=1, max_length=1000)] | None = None


class WebhookChange(Settings):
    url: Url | None = None


class NewWebhook(Settings):
    """It is switched off, unless `enabled`."""

    account_id: Identifier | None = None
    topic: Topic
    url: Url
    enabled: Annotated[bool, Field(strict=True)] = False


class SwitchOn(Given):
    """What becomes of what was held for it; left out: as the daemon's [deactivation] on_resume says."""

    held: Literal["resume", "discard"] | None = None


class WebhooksWanted(Given):
    account_id: Number | None = None
    after: After = 0
    limit: Limit = 50


async def _list(ask: Ask[WebhooksWanted, None]) -> Answer:
    account_id = await ask.account(ask.query.account_id)
    rows = await insight.webhooks(ask.connection, account_id, ask.query.after, ask.query.limit + 1)
    items = [WebhookListed.model_validate(row) for row in rows[: ask.query.limit]]
    return Answer(Webhooks(items=items, next=items[-1].id if len(rows) > len(items) else None))


async def _create(ask: Ask[None, NewWebhook]) -> Answer:
    given = ask.body
    account_id = await ask.required(given.account_id)
    Egress(ask.parts.config().egress).permit_url(given.url)
    webhook_id = await control.create_webhook(ask.connection, account_id, given.topic, given.url)
    settings = given.model_dump(exclude_unset=True, include=set(Settings.model_fields))
    if settings:
        await control.set_webhook(ask.connection, webhook_id, settings)
    if given.enabled:
        await control.enable_webhook(ask.connection, webhook_id)
    return await _shown(ask, webhook_id, {"Location": f"{PREFIX}/webhooks/{webhook_id}"})


async def _show(ask: Ask[None, None]) -> Answer:
    return await _shown(ask, ask.ids["webhook_id"])


async def _change(ask: Ask[None, WebhookChange]) -> Answer:
    webhook_id = await _locked(ask)
    settings = ask.body.model_dump(exclude_unset=True)
    if ask.body.url is not None:
        Egress(ask.parts.config().egress).permit_url(ask.body.url)
    if settings:
        await control.set_webhook(ask.connection, webhook_id, settings)
    return await _shown(ask, webhook_id)


async def _remove(ask: Ask[None, None]) -> Answer:
    await control.remove_webhook(ask.connection, await _locked(ask))
    return Answer()


async def _enable(ask: Ask[None, SwitchOn]) -> Answer:
    webhook_id = await _locked(ask)
    held = ask.body.held or ask.parts.config().deactivation.on_resume
    await control.enable_webhook(ask.connection, webhook_id, held)
    return await _shown(ask, webhook_id)


async def _disable(ask: Ask[None, Given]) -> Answer:
    webhook_id = await _locked(ask)
    await control.disable_webhook(ask.connection, webhook_id)
    return await _shown(ask, webhook_id)


async def _health(ask: Ask[None, None]) -> Answer:
    row = await insight.health(ask.connection, ask.ids["webhook_id"], ask.caller.account_id)
    return Answer(Health.model_validate(row))


async def _shown(ask: Ask[Any, Any], webhook_id: int, headers: dict[str, str] | None = None) -> Answer:
    row = await insight.webhook(ask.connection, webhook_id, ask.caller.account_id)
    return Answer(Webhook.model_validate(row), {"ETag": f'"{row["tag"]}"'} | (headers or {}))


async def _locked(ask: Ask[Any, Any]) -> int:
    """Its id, where it is there, and as whoever asks takes it to be. Raises NotFoundError or ProblemError."""
    webhook_id = ask.ids["webhook_id"]
    await insight.require_webhook(ask.connection, webhook_id, ask.caller.account_id)
    tag = await control.lock_webhook(ask.connection, webhook_id)
    if ask.if_match is not None and tag not in ask.if_match:
        says = f"Webhook {webhook_id} has been changed since: look at it again, and send its new ETag."
        raise ProblemError(HTTPStatus.PRECONDITION_FAILED, says)
    return webhook_id


OPERATIONS = [
    Operation(
        HTTPMethod.GET, "/webhooks", "listWebhooks", "The webhooks, in the order of their ids.", "webhooks",
        Who.ACCOUNT, _list, Webhooks, query=WebhooksWanted,
    ),
    Operation(
        HTTPMethod.POST, "/webhooks", "createWebhook", "Subscribes a URL to a topic.", "webhooks",
        Who.ACCOUNT, _create, Webhook, HTTPStatus.CREATED, body=NewWebhook, tagged=True,
    ),
    Operation(
        HTTPMethod.GET, "/webhooks/{webhook_id}", "showWebhook", "One webhook, with its settings.", "webhooks",
        Who.ACCOUNT, _show, Webhook, tagged=True,
    ),
    Operation(
        HTTPMethod.PATCH, "/webhooks/{webhook_id}", "changeWebhook", "Changes its settings (a merge patch, RFC 7396).",
        "webhooks", Who.ACCOUNT, _change, Webhook, body=WebhookChange, tagged=True, conditional=True, patience=LONGEST,
    ),
    Operation(
        HTTPMethod.DELETE, "/webhooks/{webhook_id}", "removeWebhook",
        "Removes it: what it is owed is cancelled, what was sent stays known until its retention ends.", "webhooks",
        Who.ACCOUNT, _remove, None, HTTPStatus.NO_CONTENT, conditional=True, patience=LONGEST,
    ),
    Operation(
        HTTPMethod.POST, "/webhooks/{webhook_id}/enable", "enableWebhook", "Switches it on.", "webhooks",
        Who.ACCOUNT, _enable, Webhook, body=SwitchOn, tagged=True, conditional=True, patience=LONGEST,
    ),
    Operation(
        HTTPMethod.POST, "/webhooks/{webhook_id}/disable", "disableWebhook", "Switches it off; what it is owed is held.",
        "webhooks", Who.ACCOUNT, _disable, Webhook, body=Given, tagged=True, conditional=True, patience=LONGEST,
    ),
    Operation(
        HTTPMethod.GET, "/webhooks/{webhook_id}/health", "showHealth", "How it is doing, in numbers and in words.", "webhooks",
        Who.ACCOUNT, _health, Health,
    ),
]  # fmt: skip
