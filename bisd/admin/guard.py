"""Who may ask, under which name, and what every answer says to a browser."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import MutableMultiMapping

from bisd import config as configuration
from bisd.config import HttpConfig
from bisd.errors import ConfigurationError

# No other page can frame, read or keep what is here; and it does not say which version of what serves it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "bisd",
}
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*", re.ASCII)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Caller:
    """Who asks: an account, or the operator, who has none."""

    account_id: int | None


def secure(headers: MutableMultiMapping[str]) -> None:
    for name, value in HEADERS.items():
        headers[name] = value


def token(config: HttpConfig) -> bytes | None:
    """The token that the configuration names. Raises ConfigurationError."""
    if config.token_file is None:
        return None
    text = configuration.secret(config.token_file, "http.token_file")
    if not _TOKEN.fullmatch(text):
        says = "holds no token: 16 characters or more, letters and digits, as `openssl rand -hex 32` writes them"
        raise ConfigurationError([f"http.token_file: {config.token_file} {says}"])
    return text.encode()


def bearer(request: web.Request) -> str | None:
    """The token that a request bears (RFC 6750); None if it bears none."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" and given.strip() else None


def is_token(given: str, token: bytes | None) -> bool:
    """Whether it is the operator's, in a time that does not tell how much of it is."""
    return token is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token)


def for_bearers(handler: Handler, token: bytes | None) -> Handler:
    """Only who sends the token is answered; if there is none, everybody."""
    if token is None:
        return handler

    async def guarded(request: web.Request) -> web.StreamResponse:
        given = bearer(request)
        if given is None or not is_token(given, token):
            raise web.HTTPUnauthorized(headers={hdrs.WWW_AUTHENTICATE: 'Bearer realm="bisd"'})
        return await handler(request)

    return guarded


def by_our_name(config: HttpConfig) -> Middleware:
    """Refuses what was sent to another name than ours: a page whose name leads here (DNS rebinding) asks under its own. Ours
    are localhost, the address that the request came in by, and the host of public_url; the port is not looked at."""
    names = {"localhost"}
    if config.public_url is not None:
        names.add((urlsplit(config.public_url).hostname or "").lower())

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.getall(hdrs.HOST, [])
        if len(given) != 1:
            raise web.HTTPBadRequest(text="There must be one Host header.")
        if not request.raw_path.isascii():
            raise web.HTTPBadRequest(text="A target is ASCII: percent-encode the rest.")
        # An absolute target stands above the header (RFC 9112, 3.2.2), and both count here.
        if not {_name(given[0]), _name(request.host)} <= names | {_came_in_by(request)}:
            raise web.HTTPMisdirectedRequest(text="That is not our name: see [http] public_url.")
        return await handler(request)

    return guard


def _name(host: str | None) -> str | None:
    """A host without its port, as it would be compared; None if it is none."""
    text = (host or "").lower()
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # as aiohttp has it from an absolute target
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    try:
        return str(ip_address(match[1].strip("[]")))
    except ValueError:
        return match[1]


def _came_in_by(request: web.Request) -> str:
    """The address of ours that was connected to; nothing that a name could be where that is a Unix socket."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(ip_address(name[0].partition("%")[0])) if isinstance(name, tuple) else ""
