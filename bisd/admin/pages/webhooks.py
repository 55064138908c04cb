"""Settings, Webhooks: what there is and how it is doing; to be created, switched, tried out."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from aiohttp import web

from bisd import control, insight
from bisd.admin.desk import LONGEST
from bisd.admin.pages import attempts, fields
from bisd.admin.pages.gate import Form
from bisd.admin.pages.site import Asked, go
from bisd.egress import Egress
from bisd.errors import BisdError, RequestRefusedError, UrlRefusedError

TOPICS = ("notification/sent", "notification/create", "webhook/failing", "webhook/deactivated", "webhook/recovered")
_RECENT = 10
# Seconds that the answer to a test is waited for before the page is shown without, and from look to look.
_PATIENCE = 1.0
_LOOK = 0.05
_WINDOW = timedelta(days=1)
_DONE = ("created", "on", "off", "saved", "removed", "replayed", "nothing", "taken_back")


def _done(asked: Asked) -> str | None:
    done = asked.request.query.get("done")
    return done if done in _DONE else None


async def listing(asked: Asked) -> web.StreamResponse:
    return await _list(asked, {}, None)


async def _list(asked: Asked, given: Form, trouble: BisdError | None) -> web.StreamResponse:
    async with asked.site.desk.connection() as connection:
        rows = await insight.glance(connection, asked.account_id)
    return asked.render(
        "webhooks.html",
        status=HTTPStatus.OK if trouble is None else HTTPStatus.UNPROCESSABLE_ENTITY,
        here="webhooks",
        follow=f"{asked.base}/live",
        rows=rows,
        most_counted=insight.GLANCED_BACKLOG,
        topics=TOPICS,
        given={name: given.get(name, "") for name in ("topic", "url")},
        trouble=trouble,
        done=_done(asked),
    )


async def create(asked: Asked, form: Form) -> web.StreamResponse:
    try:
        url = fields.text(form, "url")
        Egress(asked.site.config.egress).permit_url(url)
        async with asked.site.desk.connection() as connection:
            webhook_id = await control.create_webhook(connection, asked.account_id, fields.text(form, "topic"), url)
    except (RequestRefusedError, UrlRefusedError) as fault:
        return await _list(asked, form, fault)
    return go(f"{asked.base}/webhooks/{webhook_id}?done=created")


async def show(asked: Asked) -> web.StreamResponse:
    return await display(asked, None, None)


async def display(asked: Asked, given: dict[str, object] | None, trouble: BisdError | None) -> web.StreamResponse:
    """One webhook. `given`: the settings as somebody has just tried to have them, None: as they are."""
    webhook_id = asked.number("webhook")
    test = await _tested(asked, webhook_id)
    async with asked.site.desk.connection() as connection:
        webhook: dict[str, Any] = await insight.webhook(connection, webhook_id, asked.account_id)
        recent = await insight.deliveries(connection, account_id=asked.account_id, webhook_id=webhook_id, most=_RECENT)
        left = await insight.replaying(connection, webhook_id)
        total = asked.request.query.get("replayed", "")
        return asked.render(
            "webhook.html",
            status=HTTPStatus.OK if trouble is None else HTTPStatus.UNPROCESSABLE_ENTITY,
            here="webhooks",
            follow=f"{asked.base}/live",
            webhook=webhook,
            most_counted=insight.COUNTED_BACKLOG,
            recent=recent.rows,
            left=left,
            total=int(total) if total.isascii() and total.isdigit() and len(total) < 10 else 0,
            test=test,
            given=given or _settings(webhook),
            replay_since=fields.ago(_WINDOW),
            on_resume=asked.site.config.deactivation.on_resume,
            trouble=trouble,
            done=_done(asked),
        )


def _settings(webhook: dict[str, Any]) -> dict[str, object]:
    """As the form shows them; the values of headers are never shown."""
    names = ("url", "description", "rate", "max_in_flight", "filter")
    texts = {name: "" if webhook[name] is None else f"{webhook[name]:g}" if name == "rate" else webhook[name] for name in names}
    return texts | {"ordered": webhook["ordered"], "headers": ""}


async def _tested(asked: Asked, webhook_id: int) -> dict[str, object] | None:
    """The test that the page is to show, and what came of it within a moment; None: it is to show none."""
    given = asked.request.query.get("test", "")
    if (event_id := fields.event({"test": given}, "test")) is None:
        return None
    ends = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        async with asked.site.desk.connection() as connection:
            _, tried = await insight.delivery(connection, event_id, asked.account_id)
            of_it = [row for row in tried if row["webhook_id"] == webhook_id]
            if of_it or asyncio.get_running_loop().time() >= ends:
                event: dict[str, Any] = await insight.event(connection, event_id, asked.account_id)
                return {"attempts": await attempts.told(asked, connection, event, of_it, [])}
        await asyncio.sleep(_LOOK)


async def switch(asked: Asked, form: Form) -> web.StreamResponse:
    webhook_id = asked.number("webhook")
    on = fields.one_of(form, "on", ("yes", "no")) == "yes"
    back = fields.one_of(form, "back", ("list", "webhook"))
    held = fields.one_of(form, "held", ("resume", "discard")) if "held" in form else asked.site.config.deactivation.on_resume
    async with asked.site.desk.connection(LONGEST) as connection:
        await insight.require_webhook(connection, webhook_id, asked.account_id)
        if on:
            await control.enable_webhook(connection, webhook_id, held)
        else:
            await control.disable_webhook(connection, webhook_id)
    place = "" if back == "list" else f"/{webhook_id}"
    return go(f"{asked.base}/webhooks{place}?done={'on' if on else 'off'}")


async def test(asked: Asked, _: Form) -> web.StreamResponse:
    """Sends a test payload; the page that is shown then waits for the answer."""
    webhook_id = asked.number("webhook")
    async with asked.site.desk.connection() as connection:
        await insight.require_webhook(connection, webhook_id, asked.account_id)
        try:
            event_id = await control.send_test(connection, webhook_id)
        except RequestRefusedError as fault:
            refused = fault
        else:
            return go(f"{asked.base}/webhooks/{webhook_id}?test={event_id}#test-panel")
    return await display(asked, None, refused)
