"""The settings of a webhook: filter, headers, rate, order, description, URL. What is wrong is refused with a reason, what is
set reaches a running daemon at once."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from bisd.config import Config
from tests.support.daemon import Process, configure, running
from tests.support.receiver import Receiver
from tests.support.shop import Shop, eventually


async def _set(shop: Shop, webhook_id: int, **settings: object) -> None:
    await shop.connection.execute("select bisd.set_webhook($1, $2)", webhook_id, json.dumps(settings))


async def _emit(shop: Shop, *bodies: str) -> None:
    await shop.connection.execute(
        "select bisd.emit($1, 'order/paid', body::json) from unnest($2::text[]) body", shop.account_id, list(bodies)
    )


async def _owes(shop: Shop, number: int) -> bool:
    return await shop.owed() == number


async def test_a_filter_decides_what_is_owed(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Only the events whose body the predicate is true of are owed; a body that cannot be asked is owed too; without a filter,
    every one is."""
    webhook_id = await shop.subscribe("order/paid", receiver.url)
    await _set(shop, webhook_id, filter='$.total > 100 && $.lines[*].sku == "tea"')
    big_tea, bodies = '{"total": 101, "lines": [{"sku": "cup"}, {"sku": "tea"}]}', []
    async with running(configure(ca_file), dsn):
        await _emit(
            shop, big_tea, '{"total": 100, "lines": [{"sku": "tea"}]}', '{"total": 101, "lines": []}', "[]", "null",
            '{"total": "101"}', '{"total": 1, "name": "\\u0000"}',
        )  # fmt: skip
        await receiver.received(2)
        await _set(shop, webhook_id, filter="$.total <= 100")
        await _emit(shop, big_tea, '{"total": 7}')
        await receiver.received(3)
        await _set(shop, webhook_id, filter=None)
        await _emit(shop, "[]")
        await receiver.received(4)
        bodies = [got.body.decode() for got in receiver.requests]
    assert sorted(bodies[:2]) == sorted([big_tea, '{"total": 1, "name": "\\u0000"}'])
    assert bodies[2:] == ['{"total": 7}', "[]"]


async def test_predicates_are_filters(shop: Shop) -> None:
    """Whatever can be true or false of a body."""
    webhook_id = await shop.subscribe("order/paid", "https://example.com/")
    for predicate in (
        "$.total > 1",
        "exists($.a)",
        '$.a starts with "x"',
        "!($.a == 1)",
        "strict $.a.b == 1",
        '$.a == "$b" && ($.c[*] != 2.5 || $."d e"[0 to last].size() <= -1)',
        "$.a == true || ($.b == null) is unknown",
        "$.a * 2 + $.b > 1e3",
    ):
        await _set(shop, webhook_id, filter=predicate)
        assert await shop.connection.fetchval(
            "select filter = $1::text::jsonpath::text from (select filter::text from bisd.webhook) w", predicate
        )


_REFUSED_SETTINGS: list[tuple[object, str]] = [
    ({"filter": "$.total"}, "a filter must be a predicate"),
    *[({"filter": filter}, "a filter has no **, no ?, no pattern") for filter in (
        "$.total ? (@ > 1)", "exists($.a ? (@ > 1))", "exists($.** ? (exists($.**)))", "$.**.a == 1", '$.a like_regex "(a+)+"',
        '$.at.datetime() == "x"', "$.keyvalue().value == 1")],
    *[({"filter": filter}, "compares a path on the left with a value on the right") for filter in (
        "$.a == $.b", "$.a[0] < $.b", "1 == $.a", "$.a == ($.b)", "$.a > -$.b", "$.a >= $.b + 1")],
    ({"filter": "$.a[*] == 1 && $.b[*] == 2"}, "a filter opens one array or object at most"),
    ({"filter": "1"}, "a filter must be a predicate"),
    ({"filter": "total > 1"}, "a filter that is no SQL/JSON path"),
    ({"filter": "$.total >"}, "a filter that is no SQL/JSON path"),
    ({"filter": '$.a like_regex "("'}, "a filter that is no SQL/JSON path"),
    ({"filter": "$.total > $least"}, "a filter has no variables"),
    ({"filter": "$.a == 1" + " || $.a == 1" * 200}, "a filter has at most 1000 characters"),
    ({"headers": []}, "headers must be a JSON object"),
    ({"headers": {f"X-{n}": "x" for n in range(17)}}, "there may be 16 headers, each name once"),
    ({"headers": {"X-Shop": "a", "x-shop": "b"}}, "there may be 16 headers, each name once"),
    *[({"headers": {name: "x"}}, f'a header cannot be called "{name}"') for name in (
        "Content-Type", "Host", "User-Agent", "Cookie", "Connection", "Content-Length", "Transfer-Encoding", "webhook-id",
        "webhook-signature", "X-BIS-Signature", "x-bis-anything", "X-Forwarded-For", "X-Real-IP", "X-Original-URL",
        "X-HTTP-Method-Override", "X-", "X-a b", "X-a:", "X-a\n", "X-ä", "")],
    *[({"headers": {"X-Shop": value}}, 'the value of header "X-Shop" must be text') for value in (
        "", " x", "x ", "a\r\nHost: evil", "a\0b".replace("\0", "\x01"), "ä", "x" * 1025, 5, None, ["x"])],
    ({"rate": 0}, "rate between 0.001 and 100000"),
    ({"rate": -1}, "rate between 0.001 and 100000"),
    ({"rate": "NaN"}, "rate between 0.001 and 100000"),
    ({"rate": "fast"}, "a value of another kind"),
    ({"max_in_flight": 0}, "max_in_flight lies between 1 and 10000"),
    ({"max_in_flight": 1.5}, "a value of another kind"),
    ({"ordered": "perhaps"}, "a value of another kind"),
    ({"description": "x" * 201}, "description has at most 200 characters"),
    ({"url": None}, "cannot be a webhook's URL"),
    ({"enabled": True}, '"enabled" is no setting of a webhook'),
    ([], "the settings of a webhook are a JSON object"),
]  # fmt: skip


async def test_settings_are_refused_with_a_reason(shop: Shop) -> None:
    """SQLSTATE BISD0, a sentence and a hint; and nothing is changed, not what was right beside it either."""
    webhook_id = await shop.subscribe("order/paid", "https://example.com/")
    for settings, reason in _REFUSED_SETTINGS:
        if isinstance(settings, dict):
            settings = {"description": "changed", **settings}
        refusal = await _refusal(shop, "select bisd.set_webhook($1, $2)", webhook_id, json.dumps(settings))
        assert reason in str(refusal), settings
        assert (refusal.sqlstate, bool(refusal.hint)) == ("BISD0", True)
    assert await shop.connection.fetchval("select description from bisd.webhook") == ""


async def _refusal(shop: Shop, call: str, *arguments: object) -> asyncpg.PostgresError:
    """What was raised."""
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await shop.connection.execute(call, *arguments)
    return refusal.value


_REFUSED_URLS = [
    ("https://user:secret@example.com/", "must not contain a user name or a password"),
    ("https://example.com@evil.com/", "must not contain a user name or a password"),
    ("https://example.com\\@evil.com/", "characters that a URL cannot have"),
    ("https://example.com/a\\b", "characters that a URL cannot have"),
    ("https://example.com/\r\nHost: evil", "characters that a URL cannot have"),
    ("https://example.com/\x7f", "characters that a URL cannot have"),
    ("https://example.com/a b", "characters that a URL cannot have"),
    ("https://bücher.example/", "characters that a URL cannot have"),
    ("https://example.com/ä", "characters that a URL cannot have"),
    ("https://example.com:0/", "its port is not between 1 and 65535"),
    ("https://example.com:65536/", "its port is not between 1 and 65535"),
    ("https://example.com:99999/", "its port is not between 1 and 65535"),
    ("https://example.com:123456/", "its host is neither a name nor an address"),
    ("https://example.com:x/", "its host is neither a name nor an address"),
    ("https:///hooks", "its host is neither a name nor an address"),
    ("https://:443/", "its host is neither a name nor an address"),
    ("https://", "its host is neither a name nor an address"),
    ("https://[::1/", "its host is neither a name nor an address"),
    ("https://example.com/" + "x" * 2029, "more than 2048 characters"),
    ("ftp://example.com/", "it must start with https://"),
    ("example.com", "it must start with https://"),
    (" https://example.com/", "it must start with https://"),
    ("", "it must start with https://"),
]


async def test_a_url_is_refused_with_the_reason(shop: Shop) -> None:
    """By create_webhook, by set_webhook, and, past both, by the table's constraint."""
    webhook_id = await shop.subscribe("order/paid", "https://example.com/")
    for url, reason in _REFUSED_URLS:
        refusals = (
            await _refusal(shop, "select bisd.create_webhook(1, 'order/paid', $1)", url),
            await _refusal(shop, "select bisd.set_webhook(1, $1)", json.dumps({"url": url})),
        )
        for refusal in refusals:
            assert reason in str(refusal), url
            assert refusal.sqlstate == "BISD0"
        refused = await _refusal(shop, "update bisd.webhook set url = $2 where id = $1", webhook_id, url)
        assert isinstance(refused, asyncpg.CheckViolationError), url


async def test_usual_urls_are_taken(shop: Shop) -> None:
    """Names and addresses, with and without a port."""
    for url in (
        "https://example.com", "https://example.com?a=1", "https://1.2.3.4:8443/x;y=%20#z", "https://[2001:db8::1]:443/",
    ):  # fmt: skip
        assert await shop.subscribe("order/paid", url) > 0


async def test_headers_are_sent_with_every_request(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """Its own headers go with each attempt and each test, beside ours; taken away, they are gone. Another webhook has none."""
    webhook_id = await shop.subscribe("order/paid", receiver.url)
    await shop.subscribe("order/paid", receiver.url + "other")
    headers = {"Authorization": "Bearer abc def", "api-key": "k", "X-Shop": "tea ~!"}
    await _set(shop, webhook_id, headers=headers)

    async def answer(request: web.Request) -> web.StreamResponse:
        first = request.path == "/" and request.headers["X-BIS-Attempt"] == "1" and len(receiver.requests) <= 2
        return web.Response(status=500 if first else 200)

    receiver.answer = answer
    async with running(configure(ca_file), dsn):
        await _emit(shop, "1")
        await receiver.received(3)
        await shop.connection.execute("select bisd.send_test($1)", webhook_id)
        await receiver.received(4)
        await _set(shop, webhook_id, headers=None)
        await _emit(shop, "2")
        await receiver.received(6)
    sent = [{name: got.headers.get(name) for name in headers} for got in receiver.requests if got.path == "/"]
    assert sent == [headers, headers, headers, dict.fromkeys(headers)]
    other = [got for got in receiver.requests if got.path == "/other"]
    assert [name for got in other for name in headers if name in got.headers] == []
    assert all("X-BIS-Signature" in got.headers for got in receiver.requests)


async def test_a_rate_is_kept(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """20 per second: 41 take two seconds and never come faster; without the rate, at once."""
    webhook_id = await shop.subscribe("order/paid", receiver.url)
    await _set(shop, webhook_id, rate=20)
    async with running(configure(ca_file), dsn):
        await _emit(shop, *(str(n) for n in range(41)))
        await receiver.received(41)
        at = [got.at for got in receiver.requests]
        assert 1.8 <= at[-1] - at[0] < 6
        assert max(sum(begin <= other < begin + 0.5 for other in at) for begin in at) <= 15  # 10, and room for a busy machine
        await _set(shop, webhook_id, rate=None)
        await _emit(shop, *(str(n) for n in range(40)))
        await receiver.received(81)
        assert receiver.requests[-1].at - receiver.requests[41].at < 1


def _quick(ca_file: Path) -> Config:
    config = configure(ca_file)
    return replace(config, retry=replace(config.retry, schedule=[timedelta(milliseconds=20)], max_attempts=1000))


def _first_successes(taken: list[str]) -> list[str]:
    return list(dict.fromkeys(taken))


async def test_an_ordered_webhook_keeps_the_order_over_failures_and_a_kill(
    shop: Shop, receiver: Receiver, ca_file: Path, dsn: str, tmp_path: Path
) -> None:
    """One at a time, in the order of events, though a third of the attempts fail and the daemon is killed in the middle: what
    the receiver takes first comes in order, and nothing is skipped."""
    webhook_id = await shop.subscribe("order/paid", receiver.url)
    await _set(shop, webhook_id, ordered=True)
    chance, taken, under_way, most = random.Random(1), [], 0, 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if chance.random() < 1 / 3:
            return web.Response(status=500)
        taken.append(request.headers["webhook-id"])
        return web.Response()

    receiver.answer = answer
    await _emit(shop, *(str(n) for n in range(30)))
    daemon = Process(tmp_path, dsn, ca_file)
    await daemon.start()
    await receiver.received(10)
    await daemon.kill()
    await _emit(shop, *(str(n) for n in range(30, 60)))
    async with running(_quick(ca_file), dsn):
        await receiver.received(20)
        await _emit(shop, *(str(n) for n in range(60, 90)))
        await eventually(lambda: _owes(shop, 0))
    assert _first_successes(taken) == [f"evt_{number}" for number in range(1, 91)]
    assert most == 1
    assert len(receiver.requests) > len(taken) + 10


async def test_order_is_switched_under_a_running_daemon(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """While its first event fails, an unordered webhook takes the others; ordered, it takes none; unordered again, it does."""
    webhook_id = await shop.subscribe("order/paid", receiver.url)
    failing = {"evt_1", "evt_5"}
    taken: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.headers["webhook-id"]
        if name in failing:
            return web.Response(status=500)
        taken.append(name)
        return web.Response()

    receiver.answer = answer
    async with running(_quick(ca_file), dsn):
        await _emit(shop, *"1234")
        await eventually(lambda: _owes(shop, 1))
        await _set(shop, webhook_id, ordered=True)
        failing.remove("evt_1")
        await _emit(shop, "5")
        await _emit(shop, *"678")
        await _tried(receiver, "evt_5", 10)
        assert sorted(taken) == ["evt_1", "evt_2", "evt_3", "evt_4"]
        await _set(shop, webhook_id, ordered=False)
        await eventually(lambda: _owes(shop, 1))
        assert sorted(taken)[4:] == ["evt_6", "evt_7", "evt_8"]
        await _set(shop, webhook_id, ordered=True)
        await _emit(shop, *"9")
        await _tried(receiver, "evt_5", receiver.ids()["evt_5"] + 5)
        failing.clear()
        await eventually(lambda: _owes(shop, 0))
    assert taken[-2:] == ["evt_5", "evt_9"]


async def _tried(receiver: Receiver, name: str, times: int) -> None:
    async def tried() -> bool:
        return receiver.ids()[name] >= times

    await eventually(tried)


async def test_another_url_is_another_receiver(shop: Shop, receiver: Receiver, ca_file: Path, dsn: str) -> None:
    """What waits for its retry goes to the new URL at once, and what the old one failed with is forgotten."""
    webhook_id = await shop.subscribe("order/paid", receiver.url + "old")

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500 if request.path == "/old" else 200)

    receiver.answer = answer
    config = configure(ca_file)
    async with running(replace(config, retry=replace(config.retry, schedule=[timedelta(hours=1)])), dsn):
        await _emit(shop, "1", "2")
        await eventually(lambda: _wait_for_their_retry(shop, 2))
        await _set(shop, webhook_id, url=receiver.url + "new", description="moved")
        await eventually(lambda: _owes(shop, 0))
    assert [got.path for got in receiver.requests] == ["/old", "/old", "/new", "/new"]
    row = await shop.connection.fetchrow("select url, description, failing_since from bisd.webhook")
    assert row == (receiver.url + "new", "moved", None)


async def _wait_for_their_retry(shop: Shop, number: int) -> bool:
    return [row[0] for row in await shop.statuses()] == ["retrying"] * number
