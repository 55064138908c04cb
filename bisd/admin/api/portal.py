"""/accounts/{account_id}/portal-link: what opens an account's pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPMethod, HTTPStatus
from time import time
from typing import Annotated

from pydantic import Field

from bisd.admin import portal
from bisd.admin.api.operation import Answer, Ask, Operation, Who
from bisd.admin.api.values import Duration, Given, Shown
from bisd.errors import ConfigurationError, RequestRefusedError


class PortalLink(Shown):
    """Until `expires_at` whoever has it sees the account's pages, and acts there."""

    url: str
    expires_at: datetime


class PortalLinkWanted(Given):
    lasting: Annotated[Duration, Field(json_schema_extra={"default": "1h"})] = timedelta(hours=1)


async def _link(ask: Ask[None, PortalLinkWanted]) -> Answer:
    account_id = await ask.required(ask.ids["account_id"])
    token = ask.parts.token
    if token is None:
        raise RequestRefusedError(reason="there is no token to sign links with: set [http] token_file")
    grant = portal.grant(account_id, ask.body.lasting, time())
    try:
        url = portal.link(portal.base(ask.parts.config().http), token, grant)
    except ConfigurationError as fault:
        raise RequestRefusedError(reason="; ".join(fault.faults)) from None
    return Answer(PortalLink(url=url, expires_at=datetime.fromtimestamp(grant.until, UTC)))


OPERATIONS = [
    Operation(
        HTTPMethod.POST, "/accounts/{account_id}/portal-link", "makePortalLink",
        "Makes a link that opens an account's own pages, and nothing else, for a while.", "accounts",
        Who.OPERATOR, _link, PortalLink, HTTPStatus.CREATED, body=PortalLinkWanted,
    ),
]  # fmt: skip
