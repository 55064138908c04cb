"""What becomes of a request for a page: who asks, whether they may, and what is said if not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from aiohttp import hdrs, web

from bisd import insight, log
from bisd.admin import faults
from bisd.admin.desk import Desk
from bisd.admin.pages.gate import COOKIE, Form, Gate, Viewer, is_foreign, is_genuine, read_form
from bisd.admin.pages.rendering import refuse, render_to_all, rendered
from bisd.config import Config
from bisd.errors import BisdError
from bisd.keyring import Keyring


@dataclass(frozen=True)
class Site:
    """What pages are made with. `current` gives the configuration in force; `stop` is set when the daemon ends."""

    desk: Desk
    gate: Gate
    current: Callable[[], Config]
    keyring: Keyring
    stop: asyncio.Event

    @property
    def config(self) -> Config:
        return self.current()

    def page(self, path: str, answer: Answering, *, only_operator: bool = False) -> web.RouteDef:
        """GET: shows."""
        return web.get(path, partial(_show, self, answer, only_operator))

    def order(self, path: str, name: str, carry_out: Ordering) -> web.RouteDef:
        """POST: changes something, by a form. `name`: as the log has it, and the API where it has the same."""
        return web.post(path, partial(_carry_out, self, name, carry_out))


class Asked(NamedTuple):
    """A request that may be answered. `account`: the one whose pages these are, None for the operator's own."""

    site: Site
    request: web.Request
    viewer: Viewer
    account: dict[str, Any] | None

    @property
    def account_id(self) -> int:
        assert self.account is not None
        return int(self.account["id"])

    @property
    def base(self) -> str:
        """Where the pages of this account begin."""
        return f"/accounts/{self.account_id}" if self.account is not None else ""

    def number(self, name: str) -> int:
        """A part of the path."""
        return int(self.request.match_info[name])

    def render(self, template: str, *, status: int = HTTPStatus.OK, **values: object) -> web.Response:
        return rendered(template, status, viewer=self.viewer, account=self.account, base=self.base, **values)


Answering = Callable[[Asked], Awaitable[web.StreamResponse]]
Ordering = Callable[[Asked, Form], Awaitable[web.StreamResponse]]


def go(path: str) -> web.Response:
    """What was asked for is done: the browser shows that page, and may show it again."""
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={hdrs.LOCATION: path})


async def _show(site: Site, answer: Answering, only_operator: bool, request: web.Request) -> web.StreamResponse:
    if is_foreign(request):
        return refuse(HTTPStatus.FORBIDDEN, "refused.foreign")
    try:
        asked = await _admitted(site, request, only_operator)
        return asked if isinstance(asked, web.Response) else await answer(asked)
    except BisdError as fault:
        return _told(fault)


async def _carry_out(site: Site, name: str, carry_out: Ordering, request: web.Request) -> web.StreamResponse:
    if is_foreign(request):
        return refuse(HTTPStatus.FORBIDDEN, "refused.foreign")
    form: Form = {}
    if (viewer := site.gate.admit(request)) is not None:
        form = await read_form(request)
        if not is_genuine(viewer, form):
            return refuse(HTTPStatus.FORBIDDEN, "refused.form")
    try:
        asked = await _admitted(site, request, False)
        if isinstance(asked, web.Response):
            return asked
        answer = await carry_out(asked, form)
        if answer.status < HTTPStatus.BAD_REQUEST:
            about = {f"{thing}_id": int(number) for thing, number in request.match_info.items()}
            log.get().info(log.Event.ORDER, operation=name, account_id=asked.viewer.account_id, about=about)
        return answer
    except BisdError as fault:
        return _told(fault)


async def _admitted(site: Site, request: web.Request, only_operator: bool) -> Asked | web.Response:
    """Whoever asks, and for whose pages; or what they are told instead. What is another's is not there."""
    if site.gate.token is None:
        return refuse(HTTPStatus.FORBIDDEN, "refused.no_token")
    viewer = site.gate.admit(request)
    if viewer is None:
        path = request.path_qs if request.method == hdrs.METH_GET else "/"
        trouble = "login.over" if COOKIE in request.cookies else None
        return render_to_all("login.html", status=HTTPStatus.FORBIDDEN, path=path, trouble=trouble)
    account = request.match_info.get("account")
    if not (viewer.may_see(int(account)) if account is not None else viewer.account_id is None or not only_operator):
        return refuse(HTTPStatus.NOT_FOUND, "refused.unknown")
    if account is None:
        return Asked(site, request, viewer, None)
    async with site.desk.connection() as connection:
        row = await insight.account(connection, int(account), viewer.account_id)
    return Asked(site, request, viewer, {name: row[name] for name in ("id", "name", "plan", "webhooks")})


def _told(fault: BisdError) -> web.Response:
    status = faults.status(fault)
    if status == HTTPStatus.NOT_FOUND:
        return refuse(status, "refused.unknown")
    answer = render_to_all("fault.html", status=status, sentence=str(fault))
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers[hdrs.RETRY_AFTER] = str(faults.RETRY_AFTER)
    return answer
