"""The OpenAPI document says what the API does: whatever is asked as it says, and otherwise, is answered as it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bisd.admin.api import OPERATIONS
from bisd.admin.api.document import document
from bisd.admin.api.operation import PREFIX, Operation
from tests.support.api import OPERATOR, Api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT = document(OPERATIONS)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
EXAMPLES = 20
# Nothing can be wrong with what takes nothing.
CASES = [(one, GenerationMode.POSITIVE) for one in OPERATIONS]
CASES += [(one, GenerationMode.NEGATIVE) for one in OPERATIONS if one.ids or one.query or one.model]


@pytest.fixture
def ids(api: Api) -> dict[str, int]:
    """Those of things that are there."""
    account = api.account()
    webhook = api.webhook(account, "there")
    event = api.sql("select bisd.emit($1, 'there', '{}') as id", account)[0]["id"]
    token = api.sql("select id from bisd.create_token($1, '', null)", account)[0]["id"]
    return {"account_id": account, "webhook_id": webhook, "event_id": event, "token_id": token}


@pytest.mark.parametrize(("one", "mode"), CASES, ids=[f"{one.name}-{mode.value}" for one, mode in CASES])
def test_it_is_answered_as_the_document_says(api: Api, ids: dict[str, int], one: Operation, mode: GenerationMode) -> None:
    """Requests that are right by it, about what is there, and such as are wrong: never a fault of ours, and no status, media
    type or body that it does not tell of."""
    operation: Any = SCHEMA[f"{PREFIX}{one.path}"][one.method.value]
    there = {name: ids[name] for name in one.ids} if mode is GenerationMode.POSITIVE else None

    @seed(7)
    @settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode, path_parameters=there))
    def ask(case: Any) -> None:
        answer = case.call(base_url=api.url, headers={"Authorization": f"Bearer {OPERATOR}"})
        case.validate_response(answer, checks=CHECKS)

    ask()


def test_the_document_is_one(api: Api) -> None:
    """It is OpenAPI 3.1 by the specification's own schema, and what the daemon tells is this one."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert json.loads(json.dumps(DOCUMENT)) == api.ask("GET", "/openapi.json").json
