"""How somebody gets in: by the operator's token, or by a link that a shop gave them. And out."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from math import ceil
from urllib.parse import quote

from aiohttp import hdrs, web

from bisd.admin.pages.gate import came_from_elsewhere, is_foreign, read_form
from bisd.admin.pages.rendering import refuse, render_to_all
from bisd.admin.pages.site import Site, go
from bisd.admin.portal import PATH, Grant

# Where the browser is sent when it has been given a session, to see whether it brings it.
_CAME = "/login?came=yes"


def routes(site: Site) -> list[web.RouteDef]:
    return [
        web.get("/login", partial(_form, site)),
        web.post("/login", partial(_log_in, site)),
        web.post("/logout", partial(_log_out, site)),
        web.get(PATH, partial(_open, site)),
        web.post(PATH, partial(_replace, site)),
    ]


async def _form(site: Site, request: web.Request) -> web.StreamResponse:
    if site.gate.token is None:
        return refuse(HTTPStatus.FORBIDDEN, "refused.no_token")
    if site.gate.admit(request) is not None:
        return go(_own(request.query.get("path", "/")))
    trouble = "login.no_cookie" if "came" in request.query else None
    return render_to_all("login.html", path="/", trouble=trouble)


async def _log_in(site: Site, request: web.Request) -> web.StreamResponse:
    """The token decides; and how often it may be guessed."""
    if is_foreign(request):
        return refuse(HTTPStatus.FORBIDDEN, "refused.foreign")
    if site.gate.token is None:
        return refuse(HTTPStatus.FORBIDDEN, "refused.no_token")
    form = await read_form(request)
    if seconds := ceil(site.gate.wait(request)):  # nothing is waited for from here on: who comes at once comes one by one
        answer = refuse(HTTPStatus.TOO_MANY_REQUESTS, "login.wait", seconds=seconds)
        answer.headers[hdrs.RETRY_AFTER] = str(seconds)
        return answer
    path = _own(form.get("path", "/"))
    if not site.gate.is_operators(request, form.get("token", "")):
        return render_to_all("login.html", status=HTTPStatus.FORBIDDEN, path=path, trouble="login.wrong")
    answer = go(f"{_CAME}&path={quote(path, safe='/')}" if path != "/" else _CAME)
    site.gate.begin(answer, site.gate.operator())
    return answer


async def _log_out(site: Site, request: web.Request) -> web.StreamResponse:
    """Needs no form of ours: whoever can have a browser send this can only make it ask for the token again."""
    if is_foreign(request):
        return refuse(HTTPStatus.FORBIDDEN, "refused.foreign")
    answer = go("/login")
    site.gate.end(answer)
    return answer


async def _open(site: Site, request: web.Request) -> web.StreamResponse:
    """A link is followed from another site, and a strict cookie is not sent along with where that leads at once: the page that
    it opens leads on by itself. Only then can it be told whether this browser has another session, which whoever gave it the
    link may want it to lose without noticing: that takes a click."""
    if site.gate.token is None:
        return refuse(HTTPStatus.FORBIDDEN, "refused.no_token")
    key = request.query.get("key", "")
    grant = None if is_foreign(request) else site.gate.opened_by(key)
    if grant is None:
        return refuse(HTTPStatus.FORBIDDEN, "refused.link")
    if came_from_elsewhere(request):
        return render_to_all("opened.html", path=f"{PATH}?key={key}")
    viewer = site.gate.admit(request)
    if viewer is not None and viewer.account_id != grant.account_id:
        return render_to_all("opened.html", path=None, key=key)
    return _opened(site, grant)


async def _replace(site: Site, request: web.Request) -> web.StreamResponse:
    """Whoever was somebody else here has clicked."""
    if is_foreign(request):
        return refuse(HTTPStatus.FORBIDDEN, "refused.foreign")
    grant = site.gate.opened_by((await read_form(request)).get("key", ""))
    if grant is None:
        return refuse(HTTPStatus.FORBIDDEN, "refused.link")
    return _opened(site, grant)


def _opened(site: Site, grant: Grant) -> web.StreamResponse:
    answer = render_to_all("opened.html", path=_CAME)
    site.gate.begin(answer, grant)
    return answer


def _own(path: str) -> str:
    """A path of ours; nothing that a browser could take for another host's."""
    is_ours = path.startswith("/") and not path.startswith("//") and path.isascii() and path.isprintable() and "\\" not in path
    return path if is_ours else "/"
