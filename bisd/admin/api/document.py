"""The OpenAPI 3.1 document, made of the operations: it says of each what its route does."""

from __future__ import annotations

from http import HTTPMethod, HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from bisd import __version__
from bisd.admin.api.operation import PREFIX, Operation
from bisd.admin.api.values import Given, Number, Shown
from bisd.admin.problem import MEDIA_TYPE

_REFERENCE = "#/components/schemas/{model}"
_DESCRIPTION = (
    "Accounts, webhooks, events and deliveries of one deployment. Who sends the operator's token may ask about all; who sends "
    "an account's about what is its own: anything else is not there for it. Errors are problem details (RFC 9457)."
)
_WHY = {
    HTTPStatus.BAD_REQUEST: "It cannot be read: the body is no JSON, or a header is malformed.",
    HTTPStatus.UNAUTHORIZED: "No token, or none that is good.",
    HTTPStatus.FORBIDDEN: "It is not for whoever asks, or the daemon's database role may not.",
    HTTPStatus.NOT_FOUND: "It is not there, or not the account's.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.CONFLICT: "An order with this Idempotency-Key is being carried out.",
    HTTPStatus.PRECONDITION_FAILED: "The webhook has another ETag by now.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another media type.",
    HTTPStatus.MISDIRECTED_REQUEST: "The request was sent to another name than this server's.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "It can be read, and is refused: detail and errors tell why.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer just now: ask again after Retry-After.",
}


class Fault(Shown):
    """Where in the request, and what is wrong there."""

    where: str
    what: str


class Problem(Shown):
    """RFC 9457. `detail` says it in words."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None


class Identified(Given):
    """An id, as it stands in paths."""

    id: Number


def document(operations: list[Operation]) -> dict[str, Any]:
    given: set[type[BaseModel]] = {
        Identified,
        *(model for one in operations for model in (one.query, one.model) if model is not None),
    }
    shown: set[type[BaseModel]] = {Problem, *(one.answer for one in operations if one.answer is not None)}
    kinds: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in sorted(given, key=_name)]
    kinds += [(model, "serialization") for model in sorted(shown, key=_name)]
    _, found = models_json_schema(kinds, ref_template=_REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    parameters = {model.__name__: schemas.pop(model.__name__) for model in _only_queries(operations)}
    identifier = schemas.pop(Identified.__name__)["properties"]["id"]
    paths: dict[str, Any] = {}
    for one in operations:
        described = _described(one, parameters, identifier)
        paths.setdefault(f"{PREFIX}{one.path}", {})[one.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "bisd", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _described(one: Operation, queries: dict[str, Any], identifier: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": f"For {one.who.value}.",
        "tags": [one.group],
        "parameters": _parameters(one, queries, identifier),
        "responses": _responses(one),
    }
    if one.body is not None:
        schema = {} if one.model is None else _reference(one.model)
        kinds = ["application/json"] + (["application/merge-patch+json"] if one.method is HTTPMethod.PATCH else [])
        needed = one.model is None or any(field.is_required() for field in one.model.model_fields.values())
        described["requestBody"] = {"required": needed, "content": {kind: {"schema": schema} for kind in kinds}}
    return described


def _parameters(one: Operation, queries: dict[str, Any], identifier: dict[str, Any]) -> list[dict[str, Any]]:
    told = [{"name": name, "in": "path", "required": True, "schema": identifier} for name in one.ids]
    if one.query is not None:
        schema = queries[one.query.__name__]
        for name, kind in schema["properties"].items():
            needed = name in schema.get("required", [])
            told.append({"name": name, "in": "query", "required": needed, "schema": _without_null(kind)})
    headers = (("Idempotency-Key", one.is_once, "^[!-~]{1,255}$"), ("If-Match", one.conditional, '^(\\*|"[0-9a-f]+")$'))
    for name, is_heeded, pattern in headers:
        if is_heeded:
            told.append({"name": name, "in": "header", "schema": {"type": "string", "pattern": pattern}})
    return told


def _responses(one: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {"description": one.status.phrase}
    if one.answer is not None:
        told["content"] = {"application/json": {"schema": _reference(one.answer)}}
    if one.tagged:
        told["headers"] = {"ETag": {"schema": {"type": "string"}}}
    responses = {str(int(one.status)): told}
    for status in _refusals(one):
        content = {MEDIA_TYPE: {"schema": _reference(Problem)}}
        responses[str(int(status))] = {"description": _WHY[status], "content": content}
    return responses


def _refusals(one: Operation) -> list[HTTPStatus]:
    """With which statuses it may be refused."""
    found = {
        HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND,
        HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE,
    }  # fmt: skip
    if one.is_order:
        found |= {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    if one.is_once:
        found.add(HTTPStatus.CONFLICT)
    if one.conditional:
        found.add(HTTPStatus.PRECONDITION_FAILED)
    return sorted(found)


def _only_queries(operations: list[Operation]) -> set[type[BaseModel]]:
    return {one.query for one in operations if one.query is not None}


def _without_null(kind: dict[str, Any]) -> dict[str, Any]:
    """In a query nothing is null: what is not named is left out."""
    choices: list[dict[str, Any]] = [choice for choice in kind.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return kind
    return {name: value for name, value in kind.items() if name not in ("anyOf", "default")} | choices[0]


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _name(model: type[BaseModel]) -> str:
    return model.__name__
