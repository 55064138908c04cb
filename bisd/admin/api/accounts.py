"""/accounts: who they are, their plans and keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from http import HTTPMethod, HTTPStatus
from typing import Annotated, Any

from pydantic import Field

from bisd import control, insight
from bisd.admin.api.operation import PREFIX, Answer, Ask, Operation, Who
from bisd.admin.api.values import After, Duration, Given, Limit, Shown, Text
from bisd.sealing import seal_account


class Account(Shown):
    """`webhooks`: whether its plan has any."""

    id: int
    name: str
    plan: str
    webhooks: bool
    created_at: datetime


class Accounts(Shown):
    """`next`: the `after` of the following page; null if there is none."""

    items: list[Account]
    next: int | None


class AccountShown(Account):
    """`subscriptions`: how many webhooks it has. `previous_until`: until then its previous key signs too."""

    subscriptions: int
    previous_until: datetime | None


class AccountMade(Shown):
    """The API key signs its webhooks, and is told this once."""

    id: int
    api_key: str


class NewAccount(Given):
    name: Annotated[Text, Field(min_length=1, max_length=200)]
    plan: Annotated[Text, Field(max_length=100)]


class Plan(Given):
    plan: Annotated[Text, Field(max_length=100)]


class KeyRotation(Given):
    """For `overlap` the key of before signs too, so that receivers can change over."""

    overlap: Annotated[Duration, Field(json_schema_extra={"default": "24h"})] = timedelta(hours=24)


class AccountsWanted(Given):
    after: After = 0
    limit: Limit = 50


async def _list(ask: Ask[AccountsWanted, None]) -> Answer:
    rows = await insight.accounts(ask.connection, ask.query.after, ask.query.limit + 1)
    items = [Account.model_validate(row) for row in rows[: ask.query.limit]]
    return Answer(Accounts(items=items, next=items[-1].id if len(rows) > len(items) else None))


async def _create(ask: Ask[None, NewAccount]) -> Answer:
    account_id, api_key = await control.create_account(ask.connection, ask.body.name, ask.body.plan)
    if ask.parts.keyring.has_master:
        await seal_account(ask.connection, ask.parts.keyring, account_id)
    place = {"Location": f"{PREFIX}/accounts/{account_id}"}
    return Answer(AccountMade(id=account_id, api_key=api_key), place)


async def _show(ask: Ask[Any, Any]) -> Answer:
    row = await insight.account(ask.connection, ask.ids["account_id"], ask.caller.account_id)
    return Answer(AccountShown.model_validate(row))


async def _set_plan(ask: Ask[None, Plan]) -> Answer:
    account_id = await ask.required(ask.ids["account_id"])
    await control.set_plan(ask.connection, account_id, ask.body.plan)
    return await _show(ask)


async def _rotate_key(ask: Ask[None, KeyRotation]) -> Answer:
    account_id = await ask.required(ask.ids["account_id"])
    api_key = await control.rotate_key(ask.connection, account_id, ask.body.overlap)
    if ask.parts.keyring.has_master:
        await seal_account(ask.connection, ask.parts.keyring, account_id)
    return Answer(AccountMade(id=account_id, api_key=api_key))


OPERATIONS = [
    Operation(
        HTTPMethod.GET, "/accounts", "listAccounts", "The accounts, in the order of their ids.", "accounts",
        Who.OPERATOR, _list, Accounts, query=AccountsWanted,
    ),
    Operation(
        HTTPMethod.POST, "/accounts", "createAccount", "Opens an account, and tells its API key, this once.", "accounts",
        Who.OPERATOR, _create, AccountMade, HTTPStatus.CREATED, body=NewAccount,
    ),
    Operation(
        HTTPMethod.GET, "/accounts/{account_id}", "showAccount", "One account, without its keys.", "accounts",
        Who.ACCOUNT, _show, AccountShown,
    ),
    Operation(
        HTTPMethod.PUT, "/accounts/{account_id}/plan", "setPlan",
        "Puts an account on a plan: its webhooks stop or go on at once, as the plan has them.", "accounts",
        Who.OPERATOR, _set_plan, AccountShown, body=Plan,
    ),
    Operation(
        HTTPMethod.POST, "/accounts/{account_id}/rotate-key", "rotateKey",
        "Gives an account a new API key, and tells it, this once.", "accounts",
        Who.ACCOUNT, _rotate_key, AccountMade, body=KeyRotation,
    ),
]  # fmt: skip
