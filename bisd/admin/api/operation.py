"""What the API can be asked, as data: the routes and the OpenAPI document are both made of this."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPMethod, HTTPStatus
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from bisd import db, insight
from bisd.admin.desk import Desk
from bisd.admin.guard import Caller
from bisd.config import Config
from bisd.errors import NotFoundError
from bisd.keyring import Keyring

PREFIX = "/api/v1"

Query = TypeVar("Query")
Body = TypeVar("Body")


class Who(Enum):
    """Who may ask: the operator alone, or an account too, about what is its own."""

    OPERATOR = "the operator"
    ACCOUNT = "the operator, or the account whose it is"


@dataclass(frozen=True)
class Parts:
    """What answers are made with; `config` is the one in force, `token` the operator's."""

    keyring: Keyring
    config: Callable[[], Config]
    token: bytes | None


class Json(str):
    """The text of JSON that is passed on as it is, byte for byte: the body of an event."""


@dataclass(frozen=True)
class Ask(Generic[Query, Body]):
    """One request that has been read and may be answered. `ids`: those of its path, by name; `if_match`: the tags that it makes
    its condition, None if there is none."""

    caller: Caller
    connection: db.Connection
    parts: Parts
    ids: dict[str, int]
    query: Query
    body: Body
    if_match: frozenset[str] | None

    async def account(self, account_id: int | None) -> int | None:
        """The account that a question is about, out of what was named: an account's own always. Raises NotFoundError for
        another's, and for one that there is not."""
        if account_id is None:
            return self.caller.account_id
        if self.caller.account_id != account_id:
            await insight.account(self.connection, account_id, self.caller.account_id)
        return account_id

    async def required(self, account_id: int | None) -> int:
        """As above, where there must be one."""
        found = await self.account(account_id)
        if found is None:
            raise NotFoundError(kind="account", key="without an account_id", listing="bisd account list")
        return found


@dataclass(frozen=True)
class Answer:
    body: BaseModel | None = None
    headers: dict[str, str] = field(default_factory=dict)


# What is made of the answer's body, as it was told, and of what was asked for, when the order is carried out and committed.
Finish = Callable[[Desk, dict[str, Any], Any], Awaitable[Answer]]


@dataclass(frozen=True)
class Operation:
    """`path` is below the prefix, and its parameters are ids. `query` and `body` are models, or Json. An order, which is
    whatever is not GET, is one transaction. `tagged`: its answer bears a webhook's ETag; `conditional`: it heeds If-Match."""

    method: HTTPMethod
    path: str
    name: str
    summary: str
    group: str
    who: Who
    handler: Callable[[Ask[Any, Any]], Awaitable[Answer]]
    answer: type[BaseModel] | None
    status: HTTPStatus = HTTPStatus.OK
    query: type[BaseModel] | None = None
    body: type[BaseModel] | type[Json] | None = None
    finish: Finish | None = None
    patience: float | None = None
    tagged: bool = False
    conditional: bool = False

    @property
    def ids(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def model(self) -> type[BaseModel] | None:
        """That of its body; None if it has none, or Json."""
        return self.body if self.body is not None and issubclass(self.body, BaseModel) else None

    @property
    def is_order(self) -> bool:
        return self.method is not HTTPMethod.GET

    @property
    def is_once(self) -> bool:
        """Whether it heeds an Idempotency-Key: others can be sent twice as they are."""
        return self.method is HTTPMethod.POST
