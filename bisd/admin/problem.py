"""Errors as programs read them: problem details (RFC 9457), for whatever is asked under /api/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from bisd.admin import faults
from bisd.errors import BisdError

MEDIA_TYPE = "application/problem+json"
_UNDER = "/api/"
_KEPT = (hdrs.WWW_AUTHENTICATE, hdrs.ALLOW)


class ProblemError(BisdError):
    """{detail}"""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`errors`: where in the request, and what is wrong there."""
        super().__init__(detail=detail)
        self.status = status
        self.errors = errors
        self.headers = headers


def is_told(path: str) -> bool:
    return path.startswith(_UNDER)


def respond(
    status: int, detail: str, errors: Sequence[Mapping[str, str]] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    told: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail[:1].upper() + detail[1:],
    }
    if errors:
        told["errors"] = list(errors)
    return web.Response(status=status, body=json.dumps(told).encode(), content_type=MEDIA_TYPE, headers=headers)


@web.middleware
async def telling(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever is refused under /api/, by whomever, is a problem with words."""
    if not is_told(request.path):
        return await handler(request)
    try:
        return await handler(request)
    except ProblemError as fault:
        return respond(fault.status, str(fault), fault.errors, fault.headers)
    except BisdError as fault:
        status = faults.status(fault)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        later = {"Retry-After": str(faults.RETRY_AFTER)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        return respond(status, str(fault), headers=later)
    except web.HTTPException as fault:
        kept = {str(name): fault.headers[name] for name in _KEPT if name in fault.headers}
        return respond(fault.status, _words(fault), headers=kept)


def _words(fault: web.HTTPException) -> str:
    match fault.status:
        case HTTPStatus.NOT_FOUND:
            return "There is nothing at this path: /api/v1/openapi.json tells what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return f"This path has other methods: {fault.headers[hdrs.ALLOW].replace(',', ', ')}."
        case HTTPStatus.UNAUTHORIZED:
            return "Send Authorization: Bearer and a token: the operator's, or one of an account that is still good."
        case _:
            return fault.text or fault.reason
