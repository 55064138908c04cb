"""What HTTP says of our faults."""

from __future__ import annotations

from http import HTTPStatus

from bisd.errors import (
    BisdError,
    BodyInvalidError,
    CursorInvalidError,
    DatabaseAwayError,
    NotFoundError,
    NotGrantedError,
    RequestRefusedError,
    UrlRefusedError,
)

# Seconds until it is worth asking again.
RETRY_AFTER = 2

_STATUSES: dict[type[BisdError], HTTPStatus] = {
    NotFoundError: HTTPStatus.NOT_FOUND,
    NotGrantedError: HTTPStatus.FORBIDDEN,
    DatabaseAwayError: HTTPStatus.SERVICE_UNAVAILABLE,
    CursorInvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BodyInvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UrlRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


def status(fault: BisdError) -> HTTPStatus:
    """500 for what whoever asks can do nothing about."""
    return _STATUSES.get(type(fault), HTTPStatus.INTERNAL_SERVER_ERROR)
