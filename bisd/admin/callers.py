"""Whom a bearer token stands for: the operator, or an account."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from bisd import control
from bisd.admin.desk import Desk
from bisd.admin.guard import Caller, bearer, is_token

OPERATOR = Caller(None)
# As bisd.create_token makes them: nothing else is worth a question to the database.
_TOKEN = re.compile(r"bist_[0-9a-f]{64}", re.ASCII)


class Callers:
    """`token` is the operator's; None: nobody is the operator here."""

    def __init__(self, desk: Desk, token: bytes | None) -> None:
        self._desk = desk
        self.token = token

    async def caller(self, request: web.Request) -> Caller:
        """Raises HTTPUnauthorized, HTTPForbidden where there is no operator to be, and what the desk raises."""
        given = bearer(request)
        if given is not None and is_token(given, self.token):
            return OPERATOR
        if given is not None and _TOKEN.fullmatch(given):
            async with self._desk.connection() as connection:
                account_id = await control.use_token(connection, given)
            if account_id is not None:
                return Caller(account_id)
        elif self.token is None:
            raise web.HTTPForbidden(text="There is no operator's token here: set [http] token_file; or send one of an account.")
        raise web.HTTPUnauthorized(headers={hdrs.WWW_AUTHENTICATE: 'Bearer realm="bisd"'})
