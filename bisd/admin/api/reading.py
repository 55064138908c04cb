"""A request, read: within bounds of size and time, as JSON and nothing like it, against its model. Each thing that is wrong is
told, with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from typing import Any, NoReturn

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError, create_model

from bisd.admin import bodies
from bisd.admin.api.operation import Json, Operation
from bisd.admin.api.values import Given, Number
from bisd.admin.problem import ProblemError

_LARGEST = 64 << 10
# As bisd.max_body_bytes.
LARGEST_EVENT = 1 << 20
_MOST_ERRORS = 20
_TAG = re.compile(r'(?:W/)?"([!#-~]*)"')
_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


async def body(request: web.Request, operation: Operation) -> bytes:
    """What came, of a kind and size that the operation takes. Raises ProblemError, or as `bodies.read` does."""
    largest = LARGEST_EVENT if operation.body is Json else _LARGEST
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the body as it is, without a Content-Encoding.")
    octets = await bodies.read(request, largest)
    if octets or operation.body is Json:
        _require_json(request, operation)
    return octets


def parse(operation: Operation, octets: bytes) -> object:
    """The body as its model. An empty one stands for {}, whatever may be left out. Raises ProblemError."""
    if operation.body is None:
        return None
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not UTF-8.") from None
    if operation.body is Json:
        return Json(text)
    try:
        given = json.loads(text or "{}", parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        reason = str(fault) if isinstance(fault, json.JSONDecodeError | _RepeatedError) else "it cannot be read"
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {reason}.") from None
    return _validate(operation.model or Given, given, "body")


def query(request: web.Request, operation: Operation) -> object:
    """Raises ProblemError, for what is not known, or given twice, too."""
    model = operation.query or Given
    return _validate(model, _once_each(request.query.items()), "query")


def ids(request: web.Request, operation: Operation) -> dict[str, int]:
    """Those of its path. Raises ProblemError."""
    found: dict[str, int] = _validate(_model_of_ids(*operation.ids), dict(request.match_info), "path").model_dump()
    return found


@cache
def _model_of_ids(*names: str) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (Number, ...) for name in names}
    return create_model("Ids", __base__=Given, **fields)


def if_match(request: web.Request) -> frozenset[str] | None:
    """The tags of which one must still be the webhook's; None: whatever it is now. Raises ProblemError."""
    lines = request.headers.getall(hdrs.IF_MATCH, [])
    given = ",".join(lines)
    if not lines or given.strip() == "*":
        return None
    tags = [part.strip() for part in given.split(",")]
    if not all(_TAG.fullmatch(tag) for tag in tags):
        raise ProblemError(HTTPStatus.BAD_REQUEST, 'If-Match holds no tag: send the ETag that you were given, like "a1b2".')
    return frozenset(tag.removeprefix("W/").strip('"') for tag in tags)


def idempotency_key(request: web.Request) -> str | None:
    """Raises ProblemError."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        says = "Idempotency-Key is one text of 1 to 255 visible ASCII characters, another one for each order: a UUID, say."
        raise ProblemError(HTTPStatus.BAD_REQUEST, says)
    return given[0]


class _RepeatedError(ValueError):
    """A name that stands twice in an object: whoever reads it may see either."""

    def __str__(self) -> str:
        return "a name stands twice in an object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedError
    return found


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity, which Python's parser takes for JSON."""
    raise ValueError(constant)


def _require_json(request: web.Request, operation: Operation) -> None:
    kinds = {"application/json"} | ({"application/merge-patch+json"} if operation.method == "PATCH" else set())
    given = request.headers.get(hdrs.CONTENT_TYPE, "")
    kind, _, more = given.partition(";")
    if kind.strip().lower() not in kinds or not re.fullmatch(r'\s*(charset="?utf-8"?\s*)?', more, re.IGNORECASE):
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send a body as Content-Type: {' or '.join(sorted(kinds))}.")


def _once_each(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in items:
        if name in found:
            raise _invalid([{"where": f"query.{_printable(name)}", "what": "is given twice"}])
        found[name] = value
    return found


def _validate(model: type[BaseModel], given: object, where: str) -> BaseModel:
    try:
        return model.model_validate(given)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid([_told(error, where) for error in errors[:_MOST_ERRORS]]) from None


def _told(error: Any, where: str) -> dict[str, str]:
    place = ".".join([where, *(_printable(str(part)) for part in error["loc"])])
    what = "is not known here" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")
    return {"where": place, "what": what[0].lower() + what[1:]}


def _invalid(errors: list[dict[str, str]]) -> ProblemError:
    first = errors[0]
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{first['where']}: {first['what']}.", errors)


def _printable(text: str) -> str:
    return ascii(text[:100])[1:-1]
