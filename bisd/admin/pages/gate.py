"""Who may open which page: a session in a cookie, a token in every form, and a browser that says that it asks for itself.

A session is signed and kept nowhere (portal.py). Forms carry what is bound to the session, and whatever another site had a
browser send is refused by what the browser says of it (Fetch Metadata), whether or not there is a session."""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import NamedTuple
from urllib.parse import parse_qsl

from aiohttp import web

from bisd.admin import bodies
from bisd.admin.portal import Grant, Signer

COOKIE = "__Host-bisd"
FIELD = "csrf"
_LASTS = 12 * 3600
# Logins that may fail within a minute, of one address; and of how many addresses that is known.
_TRIES = 5
_WITHIN = 60.0
_ADDRESSES = 1000
_MOST_FIELDS = 50
_LARGEST = 64 << 10

Form = Mapping[str, str]


class Viewer(NamedTuple):
    """Who looks at a page: an account, or the operator (None), until then; and what has to be in the forms they send."""

    account_id: int | None
    until: int
    csrf: str

    def may_see(self, account_id: int) -> bool:
        return self.account_id is None or self.account_id == account_id


class Gate:
    """`token`: the operator's; None: there is none, and nobody can be let in."""

    def __init__(self, token: bytes | None, clock: Callable[[], float] = time) -> None:
        self.token = token
        self._clock = clock
        self._sessions = Signer(token, "session") if token is not None else None
        self._links = Signer(token, "portal link") if token is not None else None
        self._failed: dict[str, deque[float]] = {}

    def admit(self, request: web.Request) -> Viewer | None:
        """Whose session the request belongs to, if to any."""
        cookie = request.cookies.get(COOKIE)
        grant = self._sessions.verify(cookie, self._clock()) if self._sessions is not None and cookie is not None else None
        if self._sessions is None or cookie is None or grant is None:
            return None
        return Viewer(*grant, self._sessions.bind(f"{FIELD} {cookie}"))

    def begin(self, answer: web.StreamResponse, grant: Grant) -> None:
        """A session, as long as what was granted, and half a day at most."""
        assert self._sessions is not None
        seconds = min(grant.until - int(self._clock()), _LASTS)
        until = int(self._clock()) + seconds
        cookie = self._sessions.sign(Grant(grant.account_id, until), secrets.token_urlsafe(16))
        answer.set_cookie(COOKIE, cookie, max_age=seconds, path="/", secure=True, httponly=True, samesite="Strict")

    def end(self, answer: web.StreamResponse) -> None:
        answer.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")

    def opened_by(self, link: str) -> Grant | None:
        """What a portal link opens, if it still does."""
        return self._links.verify(link, self._clock()) if self._links is not None else None

    def operator(self) -> Grant:
        """What whoever has the operator's token is granted."""
        return Grant(None, int(self._clock()) + _LASTS)

    def wait(self, request: web.Request) -> float:
        """Seconds until this address may try to log in again; 0: it may now."""
        now = monotonic()
        for address in [one for one, moments in self._failed.items() if moments[-1] <= now - _WITHIN]:
            del self._failed[address]
        moments = self._failed.get(_address(request), deque())
        if len(moments) == _TRIES:
            return max(0.0, moments[0] + _WITHIN - now)
        return _WITHIN if not moments and len(self._failed) >= _ADDRESSES else 0.0

    def is_operators(self, request: web.Request, given: str) -> bool:
        """Whether that is the operator's token; what is not counts against the address."""
        if self.token is not None and hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self.token):
            return True
        self._failed.setdefault(_address(request), deque(maxlen=_TRIES)).append(monotonic())
        return False


def is_foreign(request: web.Request) -> bool:
    """Whether another site had the browser ask this. Following a link to a page of ours is all that it may."""
    if not came_from_elsewhere(request):
        return False
    follows = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
    return not (follows and request.method in ("GET", "HEAD"))


def came_from_elsewhere(request: web.Request) -> bool:
    """Whether another site had the browser ask, by a link or otherwise: it has sent none of our cookies then."""
    return request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")


def is_genuine(viewer: Viewer, form: Form) -> bool:
    """Whether the form was on a page of this session's."""
    return hmac.compare_digest(form.get(FIELD, "").encode("utf-8", "surrogateescape"), viewer.csrf.encode())


async def read_form(request: web.Request) -> Form:
    """The fields of a form, each once. Raises what HTTP has for what is none."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    try:
        text = (await bodies.read(request, _LARGEST)).decode("utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise web.HTTPBadRequest from None
    form = dict(pairs)
    if len(form) < len(pairs) or any("\0" in value for value in form.values()):
        raise web.HTTPBadRequest
    return form


def _address(request: web.Request) -> str:
    """Whose login it is: of a Unix socket, and behind a proxy, all are one."""
    return request.remote or ""
