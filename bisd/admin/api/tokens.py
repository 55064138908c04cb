"""/tokens: what an account's programs send to be let in."""

from __future__ import annotations

from datetime import datetime
from http import HTTPMethod, HTTPStatus
from typing import Annotated

from pydantic import Field

from bisd import control, insight
from bisd.admin.api.operation import Answer, Ask, Operation, Who
from bisd.admin.api.values import After, Given, Identifier, Limit, Moment, Number, Shown, Text


class Token(Shown):
    """`last_used_at` is right to the minute."""

    id: int
    account_id: int
    description: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Tokens(Shown):
    """`next`: the `after` of the following page; null if there is none."""

    items: list[Token]
    next: int | None


class TokenMade(Shown):
    """The token is told this once."""

    id: int
    token: str


class NewToken(Given):
    account_id: Identifier
    description: Annotated[Text, Field(max_length=200)] = ""
    expires_at: Moment | None = None


class TokensWanted(Given):
    account_id: Number | None = None
    after: After = 0
    limit: Limit = 50


async def _list(ask: Ask[TokensWanted, None]) -> Answer:
    account_id = await ask.account(ask.query.account_id)
    rows = await insight.tokens(ask.connection, account_id, ask.query.after, ask.query.limit + 1)
    items = [Token.model_validate(row) for row in rows[: ask.query.limit]]
    return Answer(Tokens(items=items, next=items[-1].id if len(rows) > len(items) else None))


async def _create(ask: Ask[None, NewToken]) -> Answer:
    account_id = await ask.required(ask.body.account_id)
    token_id, token = await control.create_token(ask.connection, account_id, ask.body.description, ask.body.expires_at)
    return Answer(TokenMade(id=token_id, token=token))


async def _revoke(ask: Ask[None, None]) -> Answer:
    await insight.require_token(ask.connection, ask.ids["token_id"], ask.caller.account_id)
    await control.revoke_token(ask.connection, ask.ids["token_id"])
    return Answer()


OPERATIONS = [
    Operation(
        HTTPMethod.GET, "/tokens", "listTokens", "The tokens of accounts, without what they are.", "tokens",
        Who.ACCOUNT, _list, Tokens, query=TokensWanted,
    ),
    Operation(
        HTTPMethod.POST, "/tokens", "createToken", "Makes a token that opens what is one account's, and tells it, this once.",
        "tokens", Who.OPERATOR, _create, TokenMade, HTTPStatus.CREATED, body=NewToken,
    ),
    Operation(
        HTTPMethod.DELETE, "/tokens/{token_id}", "revokeToken", "From now on the token opens nothing.", "tokens",
        Who.ACCOUNT, _revoke, None, HTTPStatus.NO_CONTENT,
    ),
]  # fmt: skip
