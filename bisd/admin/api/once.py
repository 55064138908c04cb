"""An order that may be sent twice and is carried out once: what was answered to it is kept, in the transaction that carried it
out, under the name of whoever sent it and his Idempotency-Key. The answer may hold an API key: it is sealed by a key that is
derived from the caller's token and his Idempotency-Key, neither of which the database knows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus

from aiohttp import hdrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bisd import db
from bisd.admin.faults import RETRY_AFTER
from bisd.admin.problem import ProblemError

_NONCE_BYTES = 12
_PURPOSE = b"bisd answer to an order"


@dataclass(frozen=True)
class Kept:
    """An answer as it was given: the text of its body, None if it had none."""

    body: str | None
    headers: dict[str, str]


class Once:
    """One order; `request` is all that it asks for."""

    def __init__(self, token: str, key: str, request: bytes) -> None:
        secret = b"\0".join((token.encode(), key.encode()))
        self._name = sha256(_PURPOSE + b"\0" + secret).digest()
        self._sealing = AESGCM(HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(secret))
        self._request = sha256(request).digest()

    async def answered(self, connection: db.Connection) -> Kept | None:
        """What was answered before; None: it is to be carried out now, and nobody else does. Raises ProblemError if somebody
        does, or if the key was another order's."""
        if not await connection.fetchval(db.query("try_order"), int.from_bytes(self._name[:8], signed=True)):
            says = "An order with this Idempotency-Key is being carried out: ask again for its answer in a moment."
            raise ProblemError(HTTPStatus.CONFLICT, says, headers={hdrs.RETRY_AFTER: str(RETRY_AFTER)})
        row = await connection.fetchrow(db.query("answered"), self._name)
        if row is None:
            return None
        if row["request"] != self._request:
            says = "This Idempotency-Key was used for another order: take a new one for each."
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, says)
        return self._open(row["sealed"])

    async def keep(self, connection: db.Connection, answer: Kept) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        text = json.dumps([answer.body, answer.headers]).encode()
        sealed = nonce + self._sealing.encrypt(nonce, text, self._name)
        await connection.execute(db.query("keep_answer"), self._name, self._request, sealed)

    def _open(self, sealed: bytes) -> Kept:
        try:
            return Kept(*json.loads(self._sealing.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._name)))
        except (InvalidTag, ValueError):
            raise ProblemError(
                HTTPStatus.CONFLICT, "What was answered to this Idempotency-Key cannot be read any more."
            ) from None
