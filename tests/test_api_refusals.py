"""What the API refuses: who may not ask, what may not be asked, and what cannot be read. None of it does anything."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bisd.admin import guard
from bisd.admin.api import OPERATIONS
from bisd.admin.api.operation import Operation, Who
from bisd.config import Config, KeysConfig
from bisd.keyring import Keyring
from tests.support.api import OPERATOR, Api
from tests.support.face import Face, Reply, facing
from tests.support.postgres import Server


@dataclass(frozen=True)
class Others:
    """Somebody else's account and all that is in it, and a token of ours."""

    account: int
    webhook: int
    event: int
    token: int
    ours: str


@pytest.fixture(scope="module")
def others(api: Api) -> Others:
    account = api.account()
    webhook = api.webhook(account, "theirs")
    event = api.sql("select bisd.emit($1, 'theirs', '{}') as id", account)[0]["id"]
    api.eventually(lambda: api.ask("GET", f"/deliveries?event_id={event}&state=delivered").json["items"] != [])
    token = api.sql("select id from bisd.create_token($1, '', null)", account)[0]["id"]
    return Others(account, webhook, event, token, api.token(api.account()))


def everything(api: Api) -> list[Any]:
    """What may not have changed."""
    return api.sql(
        "select (select json_agg(a order by a.id) from bisd.account a)::text, "
        "(select json_agg(w order by w.id) from bisd.webhook w)::text, (select count(*) from bisd.event), "
        "(select count(*) from bisd.delivery), (select count(*) from bisd.attempt), "
        "(select json_agg(row(t.id, t.revoked_at) order by t.id) from bisd.token t)::text, (select count(*) from bisd.answered)"
    )


def path_of(one: Operation, others: Others) -> str:
    """With the ids of what is theirs."""
    ids = {"account_id": others.account, "webhook_id": others.webhook, "event_id": others.event, "token_id": others.token}
    return one.path.format(**ids)


# What is right but for who asks.
BODIES: dict[str, object] = {
    "createAccount": {"name": "x", "plan": "medium"},
    "setPlan": {"plan": "large"},
    "createWebhook": {"topic": "a", "url": "https://example.com/"},
    "changeWebhook": {"description": "x"},
    "startReplay": {"since": "2026-01-01T00:00:00Z"},
    "createToken": {"account_id": 1},
    "emitEvent": {},
}
QUERIES = {"emitEvent": "?topic=a"}

CALLERS = {
    "nobody": {},
    "an empty token": {"Authorization": "Bearer "},
    "another scheme": {"Authorization": f"Basic {OPERATOR}"},
    "almost the operator": {"Authorization": f"Bearer {OPERATOR[:-1]}0"},
    "the operator and more": {"Authorization": f"Bearer {OPERATOR} x"},
    "no token of an account": {"Authorization": "Bearer bist_" + "0" * 64},
    "not in ASCII": {"Authorization": "Bearer \xe9"},
}


@pytest.mark.parametrize("headers", CALLERS.values(), ids=CALLERS.keys())
@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.name)
def test_who_has_no_token_is_told_nothing(api: Api, others: Others, one: Operation, headers: dict[str, str]) -> None:
    """401, whatever is asked, and the same whether it is there or not."""
    for path in (path_of(one, others), path_of(one, Others(10**9, 10**9, 10**9, 10**9, ""))):
        told = api.ask(one.method, path + QUERIES.get(one.name, ""), BODIES.get(one.name), token=None, **headers)
        assert (401, 'Bearer realm="bisd"') == (told.status, told.headers["WWW-Authenticate"])
        assert "Bearer" in told.detail


def test_a_revoked_or_expired_token_opens_nothing(api: Api, others: Others) -> None:
    """From the moment on that it is."""
    for change in ("revoked_at = now()", "expires_at = now() - interval '1 s'"):
        token_id, token = api.sql("select id, token from bisd.create_token($1, '', null)", others.account)[0]
        assert 200 == api.ask("GET", "/webhooks", token=token).status
        api.sql(f"update bisd.token set {change} where id = $1", token_id)
        assert 401 == api.ask("GET", "/webhooks", token=token).status


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.name)
def test_what_is_another_s_is_not_there(api: Api, others: Others, one: Operation) -> None:
    """To an account's token: 404 for whatever names something of another account, in its path or beside it, and 403 for what is
    the operator's; and nothing has changed."""
    before = everything(api)
    body, query = BODIES.get(one.name), QUERIES.get(one.name, "")
    if not one.ids and one.who is Who.ACCOUNT:
        query = f"{query}{'&' if query else '?'}account_id={others.account}"
        if one.name == "createWebhook":
            body, query = {**BODIES["createWebhook"], "account_id": others.account}, ""  # type: ignore[dict-item]
    told = api.ask(one.method, path_of(one, others) + query, body, token=others.ours)
    assert (403 if one.who is Who.OPERATOR else 404) == told.status
    assert told.detail
    assert before == everything(api)


def test_what_is_another_s_is_in_no_listing(api: Api, others: Others) -> None:
    """A filter by what is another's finds nothing."""
    for path in (
        f"/deliveries?webhook_id={others.webhook}",
        f"/deliveries?event_id={others.event}",
        "/deliveries?topic=theirs",
    ):
        assert [] == api.ask("GET", path, token=others.ours).json["items"], path


NAMES = {
    "another's name": ("/api/v1/accounts", "Host: example.com", 421),
    "another's target": ("http://example.com/api/v1/accounts", "Host: localhost", 421),
    "a name that leads here": ("http://localhost/api/v1/accounts", "Host: 127.0.0.1.example.com", 421),
    "no name": ("/api/v1/accounts", "X-No: host", 400),
    "two slashes": ("//api/v1/accounts", "Host: localhost", 404),
    "a longer way": ("/api/v1/../v1/accounts", "Host: localhost", 404),
    "a disguise": ("/api/v1/%2e%2e/v1/accounts", "Host: localhost", 404),
    "a longer path": ("/api/v1/accounts/", "Host: localhost", 404),
    "capitals": ("/API/V1/accounts", "Host: localhost", 404),
}


@pytest.mark.parametrize(("target", "header", "status"), NAMES.values(), ids=NAMES.keys())
def test_only_our_name_and_our_paths(api: Api, target: str, header: str, status: int) -> None:
    """The operator himself is not answered under another name than ours, nor by another way to a path."""
    asked = f"GET {target} HTTP/1.1\r\n{header}\r\nAuthorization: Bearer {OPERATOR}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        connection.sendall(asked.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert status == int(answer.split()[1])
    assert b'"items"' not in answer


@dataclass(frozen=True)
class Wrong:
    """A request that is refused, and what the refusal says."""

    method: str
    path: str
    status: int
    says: str
    given: object = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


NEW = {"account_id": 1, "topic": "a", "url": "https://example.com/"}
REPLAY = "/webhooks/{webhook}/replay"

WRONG = {
    "no such path": Wrong("GET", "/nothing", 404, "nothing at this path"),
    "no such method": Wrong("DELETE", "/accounts", 405, "GET, HEAD, POST"),
    "no number": Wrong("GET", "/accounts/x", 422, "path.account_id: must be a whole number"),
    "a negative number": Wrong("GET", "/accounts/-1", 422, "whole number"),
    "no id at all": Wrong("GET", "/accounts/0", 422, "greater than or equal to 1"),
    "a number out of range": Wrong("GET", "/accounts/9223372036854775808", 422, "less than or equal"),
    "digits of others": Wrong("GET", "/accounts/%D9%A3", 422, "whole number"),
    "NUL in a path": Wrong("GET", "/accounts/%00", 422, "whole number"),
    "an unknown filter": Wrong("GET", "/deliveries?colour=red", 422, "query.colour: is not known here"),
    "a filter given twice": Wrong("GET", "/deliveries?state=held&state=failed", 422, "query.state: is given twice"),
    "no such state": Wrong("GET", "/deliveries?state=lost", 422, "query.state"),
    "too many a page": Wrong("GET", "/deliveries?limit=201", 422, "query.limit"),
    "none a page": Wrong("GET", "/deliveries?limit=0", 422, "query.limit"),
    "no cursor": Wrong("GET", "/deliveries?after=x", 422, "none that this listing gave"),
    "a cursor of another kind": Wrong("GET", "/deliveries?after=W1siYSIsMV0sWzEsMl1d", 422, "none that this listing gave"),
    "a cursor of other numbers": Wrong("GET", "/deliveries?after=W1tdLFsxLDJdXQ", 422, "none that this listing gave"),
    "no time": Wrong("GET", "/deliveries?since=yesterday", 422, "query.since"),
    "a time without a zone": Wrong("GET", "/deliveries?since=2026-01-01T00:00:00", 422, "timezone"),
    "a time before all": Wrong("GET", "/deliveries?since=0001-01-01T00:00:00Z", 422, "between the years"),
    "a number for a time": Wrong("GET", "/deliveries?since=1700000000", 422, "time in text"),
    "NUL in a query": Wrong("GET", "/deliveries?topic=%00", 422, "NUL"),
    "steps without end": Wrong("GET", "/history?step=1s&since=2020-01-01T00:00:00Z", 422, "200 at most"),
    "steps of nothing": Wrong("GET", "/history?step=0s", 422, "a second or more"),
    "no JSON": Wrong("POST", "/accounts", 400, "not JSON", body=b"{"),
    "a list": Wrong("POST", "/accounts", 422, "body", given=[]),
    "NaN": Wrong("POST", "/webhooks", 400, "not JSON", body=b'{"rate": NaN}'),
    "a name twice": Wrong("POST", "/accounts", 400, "stands twice", body=b'{"name":"a","name":"b","plan":"medium"}'),
    "no UTF-8": Wrong("POST", "/accounts", 400, "not UTF-8", body=b'"\xff"'),
    "too deep": Wrong("POST", "/accounts", 400, "not JSON", body=b"[" * 30_000),
    "too long a number": Wrong("POST", "/accounts", 400, "not JSON", body=b'{"name":' + b"1" * 5000 + b"}"),
    "too large": Wrong("POST", "/accounts", 413, "65536 octets", body=b" " * 65_537),
    "too large an event": Wrong("POST", "/events?account_id={account}&topic=a", 413, "octets", body=b" " * 1_048_577),
    "no media type": Wrong("POST", "/accounts", 415, "application/json", body=b"{}", headers={"Content-Type": ""}),
    "a form": Wrong("POST", "/accounts", 415, "application/json", body=b"name=x",
                    headers={"Content-Type": "application/x-www-form-urlencoded"}),
    "another charset": Wrong(
        "POST", "/accounts", 415, "application/json", body=b"{}", headers={"Content-Type": "application/json; charset=latin-1"}
    ),
    "packed": Wrong("POST", "/accounts", 415, "Content-Encoding", body=b"{}", headers={"Content-Encoding": "gzip"}),
    "NUL": Wrong("POST", "/accounts", 422, "NUL", given={"name": "a\0", "plan": "medium"}),
    "half a surrogate": Wrong("POST", "/accounts", 422, "surrogate", given={"name": "\ud800", "plan": "medium"}),
    "no name": Wrong("POST", "/accounts", 422, "body.name", given={"name": "", "plan": "medium"}),
    "no such plan": Wrong("POST", "/accounts", 422, "no plan", given={"name": "a", "plan": "huge"}),
    "a number for a text": Wrong("POST", "/accounts", 422, "body.name", given={"name": 1, "plan": "medium"}),
    "more than is known": Wrong("POST", "/accounts", 422, "not known here", given={"name": "a", "plan": "medium", "id": 1}),
    "too long an overlap": Wrong("POST", "/accounts/{account}/rotate-key", 422, "cannot overlap", given={"overlap": "91d"}),
    "no duration": Wrong("POST", "/accounts/{account}/rotate-key", 422, "duration", given={"overlap": "soon"}),
    "a private address": Wrong("POST", "/webhooks", 422, "not a public one", given=NEW | {"url": "https://10.0.0.1/"}),
    "plain HTTP": Wrong("POST", "/webhooks", 422, "https://", given=NEW | {"url": "http://example.com/"}),
    "a password in a URL": Wrong("POST", "/webhooks", 422, "password", given=NEW | {"url": "https://a:b@example.com/"}),
    "a topic with spaces": Wrong("POST", "/webhooks", 422, "body.topic", given=NEW | {"topic": "a b"}),
    "no such account": Wrong("POST", "/webhooks", 404, "no account", given=NEW | {"account_id": 10**9}),
    "no account": Wrong("POST", "/webhooks", 404, "no account", given={"topic": "a", "url": "https://example.com/"}),
    "a header of ours": Wrong("PATCH", "/webhooks/{webhook}", 422, "cannot be called", given={"headers": {"X-BIS-A": "b"}}),
    "a filter that is none": Wrong("PATCH", "/webhooks/{webhook}", 422, "filter", given={"filter": "$.a =="}),
    "a rate beyond all": Wrong("PATCH", "/webhooks/{webhook}", 422, "body.rate", body=b'{"rate": 1' + b"0" * 400 + b"}"),
    "a URL inside": Wrong("PATCH", "/webhooks/{webhook}", 422, "not a public one", given={"url": "https://169.254.169.254/"}),
    "no URL": Wrong("PATCH", "/webhooks/{webhook}", 422, "URL", given={"url": None}),
    "no tag": Wrong("PATCH", "/webhooks/{webhook}", 400, "If-Match", given={}, headers={"If-Match": "x"}),
    "an empty tag": Wrong("PATCH", "/webhooks/{webhook}", 400, "If-Match", given={}, headers={"If-Match": ""}),
    "no key": Wrong("POST", "/accounts", 400, "Idempotency-Key", given={"name": "a", "plan": "medium"},
                    headers={"Idempotency-Key": "a b"}),
    "no such end": Wrong("POST", "/webhooks/{webhook}/enable", 422, "body.held", given={"held": "drop"}),
    "time backwards": Wrong("POST", REPLAY, 422, "nothing can have happened", given={"since": "2030-01-01T00:00:00Z"}),
    "a wait without end": Wrong("POST", "/webhooks/{webhook}/test", 422, "body.wait", given={"wait": 1e9}),
    "a body that is no JSON": Wrong("POST", "/events?account_id={account}&topic=a", 422, "not JSON", body=b"{"),
    "no body": Wrong("POST", "/events?account_id={account}&topic=a", 422, "not JSON", body=b""),
    "a body with NUL": Wrong("POST", "/events?account_id={account}&topic=a", 422, "not JSON", body=b'"\0"'),
    "a body in Latin-1": Wrong("POST", "/events?account_id={account}&topic=a", 400, "not UTF-8", body=b'"\xe9"'),
    "an event without a topic": Wrong("POST", "/events?account_id={account}", 422, "query.topic", body=b"{}"),
    "a token of the past": Wrong("POST", "/tokens", 422, "cannot expire",
                                 given={"account_id": 1, "expires_at": "2001-01-01T00:00:00Z"}),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_refused_in_words(api: Api, others: Others, wrong: Wrong) -> None:
    """By a status of the 400s and a sentence that says why; and nothing has changed."""
    before = everything(api)
    path = wrong.path.format(account=others.account, webhook=others.webhook)
    told = api.ask(wrong.method, path, wrong.given, body=wrong.body, **wrong.headers)
    assert (wrong.status, True) == (told.status, wrong.says.lower() in told.detail.lower()), told.body
    assert before == everything(api)


@pytest.mark.parametrize("one", [None, *OPERATIONS], ids=lambda one: one.name if one else "document")
def test_every_answer_carries_the_same_guards(api: Api, others: Others, one: Operation | None) -> None:
    """Of every route: answered, refused or unknown, a browser may do nothing with it, and nobody keeps it."""
    path = "/openapi.json" if one is None else path_of(one, others) + QUERIES.get(one.name, "")
    method = "GET" if one is None else one.method
    asked = [api.ask(method, path, token=token) for token in (None, others.ours)]
    asked += [api.ask("OPTIONS", path)] + ([api.ask("GET", path)] if method == "GET" else [])
    for told in asked:
        assert guard.HEADERS == {name: told.headers[name] for name in guard.HEADERS}


async def test_without_the_role_nothing_is_changed(server: Server, tmp_path: Path) -> None:
    """A daemon whose login is granted bisd_daemon alone shows all that it may see, and says of an order what it lacks."""
    (tmp_path / "token").write_text(OPERATOR)
    dsn = await server.create()
    bearer = f"Authorization: Bearer {OPERATOR}"
    async with facing(f"{dsn}&role=bisd_daemon", token_file=tmp_path / "token") as (_, face):
        assert 200 == (await face.get("/api/v1/accounts", bearer)).status
        assert 404 == (await post(face, "/api/v1/webhooks/1/test", {})).status
        told = await post(face, "/api/v1/accounts", {"name": "a", "plan": "medium"})
    assert (403, True) == (told.status, "grant bisd_admin" in told.json["detail"])


async def test_a_new_key_is_never_stored_in_plain(server: Server, tmp_path: Path) -> None:
    """With a master key, what the API tells is sealed in the table, by the transaction that made it, and opens again."""
    (tmp_path / "token").write_text(OPERATOR)
    (tmp_path / "master").write_text("ab" * 32)
    keys = KeysConfig(master_file=tmp_path / "master")
    dsn = await server.create()
    async with facing(dsn, Config(keys=keys), token_file=tmp_path / "token") as (_, face):
        made = (await post(face, "/api/v1/accounts", {"name": "a", "plan": "medium"})).json
        rotated = (await post(face, f"/api/v1/accounts/{made['id']}/rotate-key", {})).json
    connection = await asyncpg.connect(dsn)
    [row] = await connection.fetch("select api_key, previous_api_key from bisd.account")
    await connection.close()
    assert [rotated["api_key"], made["api_key"]] == [Keyring(keys).open(made["id"], stored) for stored in row]
    assert [True, True] == [stored.startswith("sealed:1:") for stored in row]


async def post(face: Face, path: str, given: object) -> Reply:
    body = json.dumps(given)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {OPERATOR}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", body]
    return await face.ask("\r\n".join(lines).encode())


async def test_without_an_operator_s_token_nobody_is_the_operator() -> None:
    """No header opens it, and the answer says what to set."""
    async with facing() as (_, face):
        for headers in ([], ["Authorization: Bearer "], ["Authorization: Bearer None"]):
            told = await face.get("/api/v1/accounts", *headers)
            assert (403, True) == (told.status, "[http] token_file" in told.json["detail"])


async def test_while_the_database_is_away_it_says_so(tmp_path: Path) -> None:
    """503, and when to ask again; it answers nonetheless."""
    (tmp_path / "token").write_text(OPERATOR)
    async with facing(token_file=tmp_path / "token") as (_, face):
        told = await face.get("/api/v1/accounts", f"Authorization: Bearer {OPERATOR}")
        assert (503, "2", 503) == (told.status, told.headers["Retry-After"], json.loads(told.body)["status"])
        assert 200 == (await face.get("/healthz")).status
