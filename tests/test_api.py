"""The API: what the command line can ask and order, over HTTP, for the operator and for accounts."""

from __future__ import annotations

import base64
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from bisd import log
from bisd.admin.api import OPERATIONS
from tests.support.api import OPERATOR, Api


@pytest.fixture(scope="module")
def shop(api: Api) -> int:
    """An account."""
    return api.account()


@pytest.fixture
def webhook(api: Api, shop: int) -> int:
    """To a topic of its own."""
    return api.webhook(shop, f"t/{uuid4()}")


def topic_of(api: Api, webhook: int) -> str:
    return str(api.ask("GET", f"/webhooks/{webhook}").json["topic"])


def emit(api: Api, webhook: int, body: bytes = b"{}") -> int:
    """An event of the webhook's topic."""
    shown = api.ask("GET", f"/webhooks/{webhook}").json
    made = api.ask("POST", f"/events?account_id={shown['account_id']}&topic={shown['topic']}", body=body)
    assert 201 == made.status
    return int(made.json["id"])


def state(api: Api, event_id: int) -> str:
    shown = api.ask("GET", f"/deliveries/{event_id}")
    return str(shown.json["deliveries"][0]["state"]) if shown.status == 200 else "none"


def test_an_account_from_its_first_day_on(api: Api) -> None:
    """It is opened, shown without its key, put on another plan, and its key is rotated; the new one signs."""
    made = api.ask("POST", "/accounts", {"name": "Tea & Söhne", "plan": "medium"})
    assert (201, f"/api/v1/accounts/{made.json['id']}") == (made.status, made.headers["Location"])
    path = f"/accounts/{made.json['id']}"
    shown = api.ask("GET", path).json
    assert {"name": "Tea & Söhne", "plan": "medium", "webhooks": True} == {n: shown[n] for n in ("name", "plan", "webhooks")}
    assert not [name for name in shown if "key" in name]
    assert ("small", False) == (lambda told: (told["plan"], told["webhooks"]))(
        api.ask("PUT", f"{path}/plan", {"plan": "small"}).json
    )
    rotated = api.ask("POST", f"{path}/rotate-key", {"overlap": "2h"}).json["api_key"]
    row = api.sql(
        "select api_key, previous_api_key, previous_until - now() as left from bisd.account where id = $1", made.json["id"]
    )[0]
    assert (rotated, made.json["api_key"]) == (row["api_key"], row["previous_api_key"])
    assert 7100 < row["left"].total_seconds() <= 7200


def test_listings_go_on_where_they_ended(api: Api) -> None:
    """Page by page, each account once, in the order of their ids."""
    for _ in range(5):
        api.account()
    seen: list[int] = []
    after: Any = 0
    while after is not None:
        page = api.ask("GET", f"/accounts?limit=2&after={after}").json
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
    assert [row["id"] for row in api.sql("select id from bisd.account order by id")] == seen


def test_a_webhook_is_made_changed_switched_and_removed(api: Api, shop: int) -> None:
    """With its settings at once; null sets one back; its own headers are told by their names only."""
    given = {"account_id": shop, "topic": "a/b", "url": api.receiver.url, "rate": 2.5, "headers": {"X-Key": "s3cret"}}
    made = api.ask("POST", "/webhooks", given)
    assert (201, False, 2.5, ["X-Key"]) == (made.status, *(made.json[name] for name in ("enabled", "rate", "headers")))
    path = f"/webhooks/{made.json['id']}"
    changed = api.ask("PATCH", path, {"rate": None, "description": "CRM"}).json
    assert (None, "CRM", ["X-Key"]) == (changed["rate"], changed["description"], changed["headers"])
    assert (True, "well") == (lambda told: (told["enabled"], told["state"]))(api.ask("POST", f"{path}/enable").json)
    assert (False, "off") == (lambda told: (told["enabled"], told["state"]))(api.ask("POST", f"{path}/disable").json)
    assert b"s3cret" not in api.ask("GET", path).body + made.body
    assert [made.json["id"]] == [
        item["id"] for item in api.ask("GET", f"/webhooks?account_id={shop}").json["items"] if item["topic"] == "a/b"
    ]
    assert 204 == api.ask("DELETE", path).status
    assert 404 == api.ask("GET", path).status


def test_a_change_is_not_made_over_another(api: Api, webhook: int) -> None:
    """With the tag that was given it is made, and there is another one then; with the old one it is not, whatever it is."""
    path = f"/webhooks/{webhook}"
    first = api.ask("GET", path).headers["ETag"]
    second = api.ask("PATCH", path, {"description": "one"}, If_Match=first)
    assert (200, False) == (second.status, second.headers["ETag"] == first)
    for method, where in (("PATCH", ""), ("DELETE", ""), ("POST", "/enable"), ("POST", "/disable")):
        refused = api.ask(method, path + where, {} if method != "DELETE" else None, If_Match=first)
        assert (412, True) == (refused.status, "changed since" in refused.detail)
    assert "one" == api.ask("GET", path).json["description"]
    assert 200 == api.ask("PATCH", path, {"description": "two"}, If_Match=f'"other", {second.headers["ETag"]}').status


def test_only_one_of_two_changes_at_once_is_made(api: Api, webhook: int) -> None:
    """Twenty with the same tag: one is made, the others are told."""
    path = f"/webhooks/{webhook}"
    tag = api.ask("GET", path).headers["ETag"]
    with ThreadPoolExecutor(20) as pool:
        asked = pool.map(lambda n: api.ask("PATCH", path, {"description": str(n)}, If_Match=tag).status, range(20))
    assert [200] + [412] * 19 == sorted(status for status in asked if status != 503)


def test_a_test_tells_what_the_receiver_answered(api: Api, webhook: int) -> None:
    """Whether it is taken or not, with the attempt's times."""
    for status, verdict in ((200, "delivered"), (500, "failed")):
        api.receiver.statuses = [status]
        told = api.ask("POST", f"/webhooks/{webhook}/test", {"wait": 10}).json
        assert (status, verdict) == (told["attempt"]["status"], told["attempt"]["verdict"])
        assert told["attempt"]["total_ms"] > 0
        assert True is api.ask("GET", f"/events/{told['event_id']}").json["test"]


def test_the_body_of_an_event_is_the_request_s(api: Api, webhook: int) -> None:
    """To the byte, as the receiver gets it and as it is signed; it is delivered, and every attempt is shown."""
    body = '{"a" :1.50,\n "é":"\\u00e9"}'.encode()
    event_id = emit(api, webhook, body)
    api.eventually(lambda: state(api, event_id) == "delivered")
    [request] = [one for one in api.receiver.requests if one.headers["webhook-id"] == f"evt_{event_id}"]
    assert body == request.body
    shown = api.ask("GET", f"/events/{event_id}").json
    assert body.decode() == shown["body"]
    key = api.sql("select api_key from bisd.account where id = $1", shown["account_id"])[0]["api_key"]
    assert base64.b64encode(hmac.digest(key.encode(), body, "sha256")).decode() == request.headers["X-BIS-Signature"]
    attempts = api.ask("GET", f"/deliveries/{event_id}").json["attempts"]
    assert [(1, 200, "delivered")] == [(one["number"], one["status"], one["verdict"]) for one in attempts]


def test_deliveries_are_retried_cancelled_and_replayed(api: Api, webhook: int) -> None:
    """Again, now; not any more; and all of a time, which can be taken back."""
    first = emit(api, webhook)
    api.eventually(lambda: state(api, first) == "delivered")
    assert {"webhooks": 1} == api.ask("POST", f"/deliveries/{first}/retry").json
    api.eventually(lambda: len(api.ask("GET", f"/deliveries/{first}").json["attempts"]) == 2)
    assert 404 == api.ask("POST", f"/deliveries/{first}/cancel").status
    api.ask("POST", f"/webhooks/{webhook}/disable")
    second = emit(api, webhook)
    replayed = api.ask("POST", f"/webhooks/{webhook}/replay", {"since": "2026-01-01T00:00:00Z", "per_second": 1})
    assert (202, {"deliveries": 2}) == (replayed.status, replayed.json)
    assert {"left": 2} == api.ask("GET", f"/webhooks/{webhook}/replay").json
    assert "held" == state(api, second)
    assert {"webhooks": 1} == api.ask("POST", f"/deliveries/{second}/cancel", {"webhook_id": webhook}).json
    assert {"deliveries": 1} == api.ask("DELETE", f"/webhooks/{webhook}/replay").json
    assert {"left": 0} == api.ask("GET", f"/webhooks/{webhook}/replay").json


def test_deliveries_are_listed_by_what_is_asked_for(api: Api, webhook: int) -> None:
    """By webhook, account, topic, state, time and event; page by page."""
    events = [emit(api, webhook) for _ in range(3)]
    api.eventually(lambda: all(state(api, event) == "delivered" for event in events))
    topic = topic_of(api, webhook)

    def listed(query: str) -> list[int]:
        return [item["event_id"] for item in api.ask("GET", f"/deliveries?{query}").json["items"]]

    newest = events[::-1]
    for query in (
        f"webhook_id={webhook}",
        f"topic={topic}",
        f"webhook_id={webhook}&state=delivered",
        f"webhook_id={webhook}&since=2026-01-01T00:00:00Z",
    ):
        assert newest == listed(query), query
    assert [events[0]] == listed(f"event_id={events[0]}&topic={topic}")
    for query in (
        f"webhook_id={webhook}&state=failed",
        f"webhook_id={webhook}&until=2026-01-01T00:00:00Z",
        "webhook_id=999999",
        "event_id=999999",
    ):
        assert [] == listed(query), query
    page = api.ask("GET", f"/deliveries?webhook_id={webhook}&limit=2").json
    rest = api.ask("GET", f"/deliveries?webhook_id={webhook}&limit=2&after={page['next']}").json
    assert (newest, None) == ([item["event_id"] for item in page["items"] + rest["items"]], rest["next"])


def test_how_it_is_doing(api: Api, shop: int, webhook: int) -> None:
    """A webhook's health, the fleet, and the course of things, as the command line tells them."""
    event_id = emit(api, webhook)
    api.eventually(lambda: state(api, event_id) == "delivered")
    health = api.ask("GET", f"/webhooks/{webhook}/health").json
    assert ("well", 1.0, 0) == (health["state"], health["success_rate"], health["backlog"])
    status = api.ask("GET", "/status").json
    assert (1, []) == (len(status["daemons"]), status["unowned"])
    for query in ("step=1h", f"step=1h&account_id={shop}"):
        steps = api.ask("GET", f"/history?{query}").json["steps"]
        assert (True, True) == (all(step["exact"] for step in steps), sum(step["delivered"] for step in steps) > 0)


def test_an_order_that_is_sent_twice_is_carried_out_once(api: Api, shop: int) -> None:
    """It is answered the same, its headers too; another one under the same key is refused; what was refused is judged anew."""
    key = str(uuid4())
    given = {"account_id": shop, "topic": "twice", "url": api.receiver.url}
    first, second = (api.ask("POST", "/webhooks", given, Idempotency_Key=key) for _ in range(2))
    assert (201, first.body, first.headers["Location"], first.headers["ETag"]) == (
        second.status, second.body, second.headers["Location"], second.headers["ETag"],
    )  # fmt: skip
    assert 1 == len(api.sql("select from bisd.webhook where account_id = $1 and topic = 'twice'", shop))
    other = api.ask("POST", "/webhooks", given | {"topic": "other"}, Idempotency_Key=key)
    assert (422, True) == (other.status, "another order" in other.detail)
    refused = str(uuid4())
    assert 404 == api.ask("POST", "/webhooks", given | {"account_id": 999_999}, Idempotency_Key=refused).status
    assert 201 == api.ask("POST", "/webhooks", given, Idempotency_Key=refused).status


def test_a_key_is_its_caller_s(api: Api, shop: int) -> None:
    """The same Idempotency-Key of somebody else is another order."""
    key, other = str(uuid4()), api.account()
    first = api.ask("POST", f"/accounts/{shop}/rotate-key", token=api.token(shop), Idempotency_Key=key)
    second = api.ask("POST", f"/accounts/{other}/rotate-key", token=api.token(other), Idempotency_Key=key)
    assert (200, 200, False) == (first.status, second.status, first.body == second.body)


def test_many_of_the_same_order_at_once(api: Api, shop: int) -> None:
    """One is carried out; the others are told that it is, or are answered the same."""
    key = str(uuid4())
    with ThreadPoolExecutor(20) as pool:
        told = [*pool.map(lambda _: api.ask("POST", f"/accounts/{shop}/rotate-key", Idempotency_Key=key), range(20))]
    done = {one.body for one in told if one.status == 200}
    assert (1, set()) == (len(done), {one.status for one in told} - {200, 409, 503})
    stored = api.sql("select api_key from bisd.account where id = $1", shop)[0]["api_key"]
    assert stored == json.loads(done.pop())["api_key"]


def test_a_kept_answer_tells_nothing_to_who_reads_the_table(api: Api, shop: int) -> None:
    """An API key that was told stands nowhere in it in plain, nor do the token and the Idempotency-Key."""
    key = str(uuid4())
    told = api.ask("POST", f"/accounts/{shop}/rotate-key", Idempotency_Key=key).json["api_key"]
    kept = b"".join(bytes(value) for row in api.sql("select name, request, sealed from bisd.answered") for value in row)
    assert [] == [text for text in (told, key, OPERATOR) if text.encode() in kept]


def test_a_kept_answer_is_forgotten_after_a_day(api: Api, shop: int) -> None:
    """Housekeeping forgets it, and the order is carried out anew."""
    key = str(uuid4())
    first = api.ask("POST", f"/accounts/{shop}/rotate-key", Idempotency_Key=key).body
    api.sql("update bisd.answered set created_at = now() - interval '25 h'")
    api.sql("select bisd.forget_answers(now() - interval '24 h')")
    assert first != api.ask("POST", f"/accounts/{shop}/rotate-key", Idempotency_Key=key).body


def test_a_token_is_told_once_and_revoked(api: Api, shop: int) -> None:
    """It opens what is its account's until it is revoked; nobody can read it anywhere; that it was used is known."""
    made = api.ask("POST", "/tokens", {"account_id": shop, "description": "CRM", "expires_at": "2030-01-01T00:00:00Z"}).json
    assert 200 == api.ask("GET", f"/accounts/{shop}", token=made["token"]).status
    listed = api.ask("GET", f"/tokens?account_id={shop}&limit=200")
    [known] = [item for item in listed.json["items"] if item["id"] == made["id"]]
    assert ("CRM", True, None) == (known["description"], known["last_used_at"] is not None, known["revoked_at"])
    assert made["token"].encode() not in listed.body
    assert 204 == api.ask("DELETE", f"/tokens/{made['id']}").status
    assert 401 == api.ask("GET", f"/accounts/{shop}", token=made["token"]).status


def test_an_account_sees_what_is_its_own(api: Api, shop: int, webhook: int) -> None:
    """Without naming itself: its webhooks, its deliveries, its tokens, its history; it makes webhooks and events of its own."""
    token, other = api.token(shop), api.webhook(api.account())
    event_id = emit(api, other)
    api.eventually(lambda: state(api, event_id) == "delivered")
    listed = [item["account_id"] for item in api.ask("GET", "/webhooks?limit=200", token=token).json["items"]]
    listed += [item["account_id"] for item in api.ask("GET", "/deliveries?limit=200", token=token).json["items"]]
    listed += [item["account_id"] for item in api.ask("GET", "/tokens?limit=200", token=token).json["items"]]
    assert {shop} == set(listed)
    made = api.ask("POST", "/webhooks", {"topic": "own", "url": api.receiver.url}, token=token)
    assert (201, shop) == (made.status, made.json["account_id"])
    emitted = api.ask("POST", "/events?topic=own", body=b"{}", token=token).json["id"]
    assert shop == api.ask("GET", f"/events/{emitted}", token=token).json["account_id"]


def test_who_ordered_what_is_logged(api: Api, shop: int, webhook: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each order that was carried out, without what it said; none for a question, or for what was refused."""
    log.configure("info", "json")
    token = api.token(shop)
    api.ask("GET", f"/webhooks/{webhook}", token=token)
    api.ask("PATCH", f"/webhooks/{webhook}", {"rate": -1}, token=token)
    api.ask("PATCH", f"/webhooks/{webhook}", {"description": "s3cret"}, token=token)
    made = api.ask("POST", "/accounts", {"name": "s3cret", "plan": "small"})
    logged = capsys.readouterr().err
    lines = [line for line in map(json.loads, logged.splitlines()) if line["event"] == "order"]
    assert [("changeWebhook", shop, webhook), ("createAccount", None, None)] == [
        (line["operation"], line["account_id"], line["about"].get("webhook_id")) for line in lines
    ]
    assert [] == [text for text in ("s3cret", token, made.json["api_key"]) if text in logged]


def test_every_operation_has_a_name_of_its_own() -> None:
    """By which programs call it."""
    names = [one.name for one in OPERATIONS]
    assert sorted(set(names)) == sorted(names)
