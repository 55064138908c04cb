"""What can be changed of a webhook: its settings, what it is owed again, and that it is there."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bisd import control, insight
from bisd.admin.desk import LONGEST
from bisd.admin.pages import fields
from bisd.admin.pages.gate import Form
from bisd.admin.pages.site import Asked, go
from bisd.admin.pages.webhooks import display
from bisd.egress import Egress
from bisd.errors import RequestRefusedError, UrlRefusedError

_TEXTS = ("url", "description", "rate", "max_in_flight", "filter", "headers")


async def settings(asked: Asked, form: Form) -> web.StreamResponse:
    webhook_id = asked.number("webhook")
    async with asked.site.desk.connection(LONGEST) as connection:
        known = await insight.webhook(connection, webhook_id, asked.account_id)
        refused: RequestRefusedError | UrlRefusedError
        try:
            wanted = _wanted(form)
            if wanted["url"] == known["url"]:
                del wanted["url"]  # another one would make it begin anew
            else:
                Egress(asked.site.config.egress).permit_url(str(wanted["url"]))
            await control.set_webhook(connection, webhook_id, wanted)
        except (RequestRefusedError, UrlRefusedError) as fault:
            refused = fault
        else:
            return go(f"{asked.base}/webhooks/{webhook_id}?done=saved")
    given: dict[str, object] = {name: form.get(name, "") for name in _TEXTS}
    return await display(asked, given | {"ordered": "ordered" in form}, refused)


def _wanted(form: Form) -> dict[str, object]:
    """The settings of the form; headers only if there are new ones, or they are to go."""
    most = fields.number(form, "max_in_flight")
    if most is not None and most != int(most):
        raise fields.wrong("max_in_flight")
    wanted: dict[str, object] = {
        "url": fields.text(form, "url"),
        "description": fields.text(form, "description"),
        "rate": fields.number(form, "rate"),
        "max_in_flight": None if most is None else int(most),
        "filter": fields.text(form, "filter") or None,
        "ordered": "ordered" in form,
    }
    headers = fields.headers(form, "headers")
    return wanted | ({"headers": headers} if headers is not None or "no_headers" in form else {})


async def ask_to_remove(asked: Asked) -> web.StreamResponse:
    async with asked.site.desk.connection() as connection:
        webhook: dict[str, Any] = await insight.webhook(connection, asked.number("webhook"), asked.account_id)
    return asked.render("remove.html", here="webhooks", webhook=webhook, most_counted=insight.COUNTED_BACKLOG)


async def remove(asked: Asked, _: Form) -> web.StreamResponse:
    webhook_id = asked.number("webhook")
    async with asked.site.desk.connection(LONGEST) as connection:
        await insight.require_webhook(connection, webhook_id, asked.account_id)
        await control.remove_webhook(connection, webhook_id)
    return go(f"{asked.base}/webhooks?done=removed")


async def replay(asked: Asked, form: Form) -> web.StreamResponse:
    webhook_id = asked.number("webhook")
    async with asked.site.desk.connection(LONGEST) as connection:
        await insight.require_webhook(connection, webhook_id, asked.account_id)
        try:
            since, per_second = fields.moment(form, "since"), fields.number(form, "per_second")
            if since is None:
                raise fields.wrong("since")
            if per_second is None:
                raise fields.wrong("per_second")
            until = fields.moment(form, "until")
            number = await control.replay(connection, webhook_id, since, until, "failed" in form, per_second)
        except RequestRefusedError as fault:
            refused = fault
        else:
            told = f"done=replayed&replayed={number}" if number else "done=nothing"
            return go(f"{asked.base}/webhooks/{webhook_id}?{told}#replay")
    return await display(asked, None, refused)


async def cancel_replay(asked: Asked, _: Form) -> web.StreamResponse:
    webhook_id = asked.number("webhook")
    async with asked.site.desk.connection(LONGEST) as connection:
        await insight.require_webhook(connection, webhook_id, asked.account_id)
        await control.cancel_replay(connection, webhook_id)
    return go(f"{asked.base}/webhooks/{webhook_id}?done=taken_back")
