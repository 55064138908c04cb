"""The pages: Settings > Webhooks, Deliveries, Account > API, and the operator's overview. Made by the daemon, readable without
script; what they do is what control.py does, and what they show is what insight.py answers."""

from __future__ import annotations

from aiohttp import web

from bisd.admin.pages import assets, changes, deliveries, entrance, key, overview, rendering, webhooks
from bisd.admin.pages.live import Live
from bisd.admin.pages.site import Site

_ACCOUNT = "/accounts/{account:[1-9][0-9]{0,17}}"
_WEBHOOK = f"{_ACCOUNT}/webhooks/{{webhook:[1-9][0-9]{{0,17}}}}"
_DELIVERY = f"{_ACCOUNT}/deliveries/{{event:[1-9][0-9]{{0,17}}}}/{{webhook:[1-9][0-9]{{0,17}}}}"


def routes(site: Site) -> list[web.RouteDef]:
    live = Live()
    if site.gate.token is not None:  # nobody can be let in otherwise
        rendering.prepare()
    return [
        *assets.routes(),
        *entrance.routes(site),
        site.page("/", overview.start),
        site.page("/live", live.stream, only_operator=True),
        site.page("/accounts", overview.accounts, only_operator=True),
        site.page(_ACCOUNT, overview.first_page),
        site.page(f"{_ACCOUNT}/live", live.stream),
        site.page(f"{_ACCOUNT}/webhooks", webhooks.listing),
        site.order(f"{_ACCOUNT}/webhooks", "createWebhook", webhooks.create),
        site.page(_WEBHOOK, webhooks.show),
        site.order(f"{_WEBHOOK}/switch", "switchWebhook", webhooks.switch),
        site.order(f"{_WEBHOOK}/test", "testWebhook", webhooks.test),
        site.order(f"{_WEBHOOK}/settings", "changeWebhook", changes.settings),
        site.page(f"{_WEBHOOK}/remove", changes.ask_to_remove),
        site.order(f"{_WEBHOOK}/remove", "removeWebhook", changes.remove),
        site.order(f"{_WEBHOOK}/replay", "startReplay", changes.replay),
        site.order(f"{_WEBHOOK}/replay/cancel", "cancelReplay", changes.cancel_replay),
        site.page(f"{_ACCOUNT}/deliveries", deliveries.listing),
        site.page(_DELIVERY, deliveries.show),
        site.order(f"{_DELIVERY}/retry", "retryDelivery", deliveries.retry),
        site.order(f"{_DELIVERY}/cancel", "cancelDelivery", deliveries.cancel),
        site.page(f"{_ACCOUNT}/api", key.show),
        site.order(f"{_ACCOUNT}/api/show", "showKey", key.reveal),
        site.order(f"{_ACCOUNT}/api/rotate", "rotateKey", key.rotate),
        site.order(f"{_ACCOUNT}/api/check", "checkSignature", key.check),
    ]
