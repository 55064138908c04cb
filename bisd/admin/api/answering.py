"""From a request to its answer: who asks, whether he may, what he asks for; then the operation, an order as one transaction,
and once if he says so."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from bisd import log
from bisd.admin.api import reading
from bisd.admin.api.once import Kept, Once
from bisd.admin.api.operation import Answer, Ask, Operation, Parts, Who
from bisd.admin.callers import Callers
from bisd.admin.desk import ANSWERED_WITHIN, Desk
from bisd.admin.guard import bearer
from bisd.admin.problem import ProblemError


class Answering:
    def __init__(self, desk: Desk, callers: Callers, parts: Parts) -> None:
        self._desk = desk
        self._callers = callers
        self._parts = parts

    def handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answer(operation, request)

        return handle

    async def _answer(self, operation: Operation, request: web.Request) -> web.Response:
        caller = await self._callers.caller(request)
        if operation.who is Who.OPERATOR and caller.account_id is not None:
            raise ProblemError(HTTPStatus.FORBIDDEN, "This is for the operator: the token is an account's.")
        ids, query = reading.ids(request, operation), reading.query(request, operation)
        octets = await reading.body(request, operation) if operation.is_order else b""
        body = reading.parse(operation, octets)
        if_match = reading.if_match(request) if operation.conditional else None
        once = _once(request, operation, octets)
        async with self._desk.connection(operation.patience or ANSWERED_WITHIN) as connection:
            ask = Ask(caller, connection, self._parts, ids, query, body, if_match)
            kept = await _carry_out(operation, ask, once) if operation.is_order else _kept(await operation.handler(ask))
        if operation.finish is not None:
            assert kept.body is not None
            kept = _kept(await operation.finish(self._desk, json.loads(kept.body), body))
        return _respond(operation, kept)


async def _carry_out(operation: Operation, ask: Ask[Any, Any], once: Once | None) -> Kept:
    async with ask.connection.transaction():
        if once is not None and (before := await once.answered(ask.connection)) is not None:
            return before
        kept = _kept(await operation.handler(ask))
        if once is not None:
            await once.keep(ask.connection, kept)
    log.get().info(log.Event.ORDER, operation=operation.name, account_id=ask.caller.account_id, about=ask.ids)
    return kept


def _once(request: web.Request, operation: Operation, octets: bytes) -> Once | None:
    key = reading.idempotency_key(request) if operation.is_once else None
    if key is None:
        return None
    token = bearer(request)
    assert token is not None
    return Once(token, key, b"\0".join((request.method.encode(), request.raw_path.encode(), octets)))


def _kept(answer: Answer) -> Kept:
    return Kept(None if answer.body is None else answer.body.model_dump_json(), answer.headers)


def _respond(operation: Operation, kept: Kept) -> web.Response:
    if kept.body is None:
        return web.Response(status=operation.status, headers=kept.headers)
    return web.Response(status=operation.status, body=kept.body.encode(), content_type="application/json", headers=kept.headers)
