"""What opens pages for a while: links that a shop hands to an account, and the sessions of browsers. Both are signed and tell
by themselves what they open and until when, so that nothing has to be kept. Pure; whoever changes the operator's token voids
all of them."""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Literal, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bisd.address import Address
from bisd.config import HttpConfig
from bisd.errors import ConfigurationError, RequestRefusedError

Purpose = Literal["portal link", "session"]

PATH = "/portal"
LONGEST = timedelta(days=30)
_OPERATOR = "operator"
_SIGNED = re.compile(
    rf"(?P<holder>[1-9][0-9]{{0,18}}|{_OPERATOR})\.(?P<until>[1-9][0-9]{{0,11}})\.[A-Za-z0-9_-]{{0,43}}", re.ASCII
)


class Grant(NamedTuple):
    """The pages of one account, or with None the operator's, which are all; until then, in seconds since 1970."""

    account_id: int | None
    until: int


class Signer:
    """Of one purpose: what was signed for another one is nothing here. Its key is derived from the operator's token (HKDF,
    RFC 5869), which it does not tell."""

    def __init__(self, token: bytes, purpose: Purpose) -> None:
        self._key = HKDF(SHA256(), 32, salt=None, info=f"bisd {purpose}".encode()).derive(token)

    def sign(self, grant: Grant, nonce: str = "") -> str:
        """Text that can stand in a URL and in a cookie. `nonce`: at most 43 characters of base64url, to tell apart what
        grants the same."""
        holder = _OPERATOR if grant.account_id is None else grant.account_id
        claim = f"{holder}.{grant.until}.{nonce}"
        return f"{claim}.{self.bind(claim)}"

    def verify(self, text: str, now: float) -> Grant | None:
        """What the text grants; None if it was not signed here, or its time is over."""
        claim, _, signature = text.rpartition(".")
        match = _SIGNED.fullmatch(claim)
        if match is None or not hmac.compare_digest(signature.encode("utf-8", "surrogateescape"), self.bind(claim).encode()):
            return None
        grant = Grant(None if match["holder"] == _OPERATOR else int(match["holder"]), int(match["until"]))
        return grant if now < grant.until else None

    def bind(self, text: str) -> str:
        """What only who has the key can make of this text: 43 characters of base64url."""
        return urlsafe_b64encode(hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), "sha256")).decode().rstrip("=")


def grant(account_id: int, lasting: timedelta, now: float) -> Grant:
    """Raises RequestRefusedError for no time, and for too long a time."""
    if not timedelta(seconds=1) <= lasting <= LONGEST:
        raise RequestRefusedError(reason=f"a link opens pages for a second at least, and {LONGEST.days} days at most")
    return Grant(account_id, int(now + lasting.total_seconds()))


def base(config: HttpConfig) -> str:
    """What the daemon is called by a browser. Raises ConfigurationError where that is not known."""
    if config.public_url is not None:
        return config.public_url
    if isinstance(config.listen, Address) and not config.listen.host.is_unspecified:
        return f"http://{config.listen}"
    raise ConfigurationError(["http.public_url: is needed to make links: what the daemon is called by a browser"])


def link(base: str, token: bytes, grant: Grant) -> str:
    """A URL that opens the pages. `base`: what the daemon is called, like https://bisd.example.com"""
    return f"{base.rstrip('/')}{PATH}?key={Signer(token, 'portal link').sign(grant)}"
