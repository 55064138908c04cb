"""The pages: what they show to whom, what every answer carries, and what nobody can have them do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
import trustme

from bisd import log
from bisd.admin import guard
from bisd.admin.pages import live
from bisd.admin.pages.gate import COOKIE
from bisd.admin.pages.texts import TEXTS
from bisd.admin.portal import Grant, Signer
from tests.support.cli import Run
from tests.support.face import NOWHERE, facing
from tests.support.pages import TOKEN, House, Visitor, opened, text_of
from tests.support.postgres import Server
from tests.support.shop import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Every route of the pages, by method and path, with the fields that a form of it needs.
PAGES = [
    "/", "/accounts", "/accounts/{account}", "/accounts/{account}/webhooks", "/accounts/{account}/webhooks/{webhook}",
    "/accounts/{account}/webhooks/{webhook}/remove", "/accounts/{account}/deliveries",
    "/accounts/{account}/deliveries/{event}/{webhook}", "/accounts/{account}/api",
]  # fmt: skip
STREAMS = ["/live", "/accounts/{account}/live"]
OPEN = ["/static/bisd.css", "/static/bisd.js", "/static/bisd.svg", "/login", "/portal"]
ORDERS = {
    "/accounts/{account}/webhooks": {"topic": "a", "url": "https://teas.example.com/"},
    "/accounts/{account}/webhooks/{webhook}/switch": {"on": "no", "back": "list"},
    "/accounts/{account}/webhooks/{webhook}/test": {},
    "/accounts/{account}/webhooks/{webhook}/settings": {"url": "https://127.0.0.1/other", "description": "other"},
    "/accounts/{account}/webhooks/{webhook}/remove": {},
    "/accounts/{account}/webhooks/{webhook}/replay": {"since": "2020-01-01T00:00", "per_second": "1"},
    "/accounts/{account}/webhooks/{webhook}/replay/cancel": {},
    "/accounts/{account}/deliveries/{event}/{webhook}/retry": {},
    "/accounts/{account}/deliveries/{event}/{webhook}/cancel": {},
    "/accounts/{account}/api/show": {},
    "/accounts/{account}/api/rotate": {"overlap": "1h", "sure": "yes"},
    "/accounts/{account}/api/check": {"body": "{}", "signature": "x"},
}
# What an order could change.
_FINGERPRINT = """
    select md5(concat((select string_agg(w::text, '' order by id) from bisd.webhook w),
                      (select string_agg(a::text, '' order by id) from bisd.account a),
                      (select count(*) from bisd.event), (select count(*) from bisd.delivery),
                      (select count(*) from bisd.attempt)))
"""
_GUARDS = {name: value for name, value in guard.HEADERS.items()}
_NAVIGATION = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    server: Server, authority: trustme.CA, ca_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """One daemon, for all of these tests."""
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(TOKEN)
    async with opened(await server.create(), authority, ca_file, token_file) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def unchanged(house: House) -> AsyncIterator[None]:
    """Whatever is asked, nothing comes of it."""
    connection = house.stalls[0].shop.connection
    before = await connection.fetchval(_FINGERPRINT)
    yield
    assert before == await connection.fetchval(_FINGERPRINT)


def path_of(template: str, house: House, account: int, things: int) -> str:
    """A route of an account's, with the webhook and the event of one of the stalls in it."""
    stall = house.stalls[things]
    return template.format(account=house.stalls[account].account_id, webhook=stall.webhook_id, event=stall.event_id)


async def test_every_route_is_in_these_tests(house: House) -> None:
    """What is added is tried by all of them."""
    told = {("GET", path) for path in [*PAGES, *STREAMS, *OPEN]} | {
        ("POST", path) for path in [*ORDERS, "/login", "/logout", "/portal"]
    }
    found = {
        (route.method, re.sub(r"(:[^{}]*|{[0-9,]+})+}", "}", route.path))
        for route in house.service.routes()
        if not route.path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))
    }
    assert told == found


@pytest.mark.parametrize("path", PAGES)
async def test_whoever_has_a_session_sees_the_page(house: House, path: str) -> None:
    """The operator all of them; an account its own, and instead of the operator's start its own."""
    own = path_of(path, house, 0, 0)
    expected = 303 if path == "/accounts/{account}" else 200
    assert expected == (await house.visitor(None).get(own)).status
    expected = {"/": 303, "/accounts": 404}.get(path, expected)
    assert expected == (await house.visitor(house.stalls[0].account_id).get(own)).status


# Cookies that are nobody's session.
COOKIES = {
    "none": None,
    "nonsense": "operator",
    "forged": "operator.9999999999.x." + "A" * 43,
    "over": Signer(TOKEN.encode(), "session").sign(Grant(None, int(time.time()) - 1)),
    "another token's": Signer(b"5e" * 32, "session").sign(Grant(None, 9_999_999_999)),
    "a link": Signer(TOKEN.encode(), "portal link").sign(Grant(None, 9_999_999_999)),
}


@pytest.mark.parametrize("cookie", COOKIES.values(), ids=COOKIES.keys())
@pytest.mark.usefixtures("unchanged")
async def test_who_has_no_session_is_asked_to_log_in(house: House, cookie: str | None) -> None:
    """Wherever they ask, and whatever they send, with a form that is right but for that."""
    visitor = Visitor(house.face, cookie)
    for path in [*PAGES, *STREAMS]:
        reply = await visitor.get(path_of(path, house, 0, 0))
        assert (403, True) == (reply.status, b'name="token"' in reply.body), path
    for path, form in ORDERS.items():
        reply = await visitor.post(path_of(path, house, 0, 0), form)
        assert (403, True) == (reply.status, b'name="token"' in reply.body), path


@pytest.mark.parametrize("who", ["one", "the operator"])
@pytest.mark.usefixtures("unchanged")
async def test_a_form_of_another_session_does_nothing(house: House, who: str) -> None:
    """Nor one without a token, with a made up one, or with the cookie for it."""
    visitor = house.visitor(house.stalls[0].account_id if who == "one" else None)
    other = house.visitor(house.stalls[1].account_id)
    for path, form in ORDERS.items():
        for csrf in ("", "x", "é", other.csrf, visitor.csrf[:-1], visitor.csrf + "A"):
            assert 403 == (await visitor.post(path_of(path, house, 0, 0), form, csrf=csrf)).status, (path, csrf)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "none, cross-site"])
@pytest.mark.usefixtures("unchanged")
async def test_what_another_site_had_the_browser_send_does_nothing(house: House, site: str) -> None:
    """However right cookie and form are; a link that is followed is all that it may, what it asks for itself is not shown."""
    visitor = house.visitor(None)
    for path, form in (ORDERS | {"/login": {"token": TOKEN}, "/logout": {}}).items():
        for mode in ((), _NAVIGATION):
            reply = await visitor.post(path_of(path, house, 0, 0), form, f"Sec-Fetch-Site: {site}", *mode)
            assert (403, None) == (reply.status, reply.headers.get("Set-Cookie")), path
    for path in [*PAGES, *STREAMS]:
        own = path_of(path, house, 0, 0)
        assert 403 == (await visitor.get(own, f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: cors")).status, path
        assert 403 == (await visitor.get(own, f"Sec-Fetch-Site: {site}", _NAVIGATION[0], "Sec-Fetch-Dest: iframe")).status
        if path in PAGES:
            followed = await visitor.get(own, f"Sec-Fetch-Site: {site}", *_NAVIGATION)
            assert followed.status in (200, 303), path


@pytest.mark.usefixtures("unchanged")
async def test_one_account_never_sees_anothers(house: House) -> None:
    """Neither by another account's number nor by another's webhook or event under its own: it is not there."""
    visitor = house.visitor(house.stalls[0].account_id)
    for account, things in ((1, 1), (1, 0), (0, 1)):
        for path in [*PAGES, *STREAMS]:
            if "{account}" in path and (account == 1 or "{webhook}" in path):
                reply = await visitor.get(path_of(path, house, account, things))
                assert 404 == reply.status, (path, account, things)
                assert TEXTS["refused.unknown"] in text_of(reply)
        for path, form in ORDERS.items():
            if account == 1 or "{webhook}" in path:
                reply = await visitor.post(path_of(path, house, account, things), form)
                assert 404 == reply.status, (path, account, things)
    assert [404, 404] == [(await visitor.get(path)).status for path in ("/accounts", "/live")]


@pytest.mark.usefixtures("unchanged")
async def test_the_test_and_the_filter_of_another_are_not_shown(house: House) -> None:
    """An id in the query is narrowed as one in the path is."""
    mine, other = house.stalls
    visitor = house.visitor(mine.account_id)
    base = f"/accounts/{mine.account_id}"
    assert 404 == (await visitor.get(f"{base}/webhooks/{mine.webhook_id}?test={other.event_id}")).status
    for query in (f"event={other.event_id}", f"event=evt_{other.event_id}", f"webhook={other.webhook_id}"):
        reply = await visitor.get(f"{base}/deliveries?{query}")
        assert (200, False) == (reply.status, f"deliveries/{other.event_id}/".encode() in reply.body), query


MALFORMED = {
    "another kind": (b"{}", "application/json", 415),
    "with files": (b"--x--", "multipart/form-data; boundary=x", 415),
    "too big": (b"a=" + b"x" * (65 << 10), "application/x-www-form-urlencoded", 413),
    "too many": (b"&".join(b"a%d=1" % n for n in range(100)), "application/x-www-form-urlencoded", 400),
    "no UTF-8": (b"csrf=\xff", "application/x-www-form-urlencoded", 400),
    "no UTF-8 in disguise": (b"csrf=%ff", "application/x-www-form-urlencoded", 400),
    "NUL": (b"csrf=x&topic=%00", "application/x-www-form-urlencoded", 400),
    "twice": (b"csrf=x&csrf=x", "application/x-www-form-urlencoded", 400),
    "nothing": (b"", "application/x-www-form-urlencoded", 403),
}


@pytest.mark.parametrize(("body", "kind", "status"), MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.usefixtures("unchanged")
async def test_what_is_no_form_does_nothing(house: House, body: bytes, kind: str, status: int) -> None:
    """And is told as what it is."""
    visitor = house.visitor(house.stalls[0].account_id)
    for path in ORDERS:
        assert status == (await visitor.send(path_of(path, house, 0, 0), body, content_type=kind)).status, path


VALUES = {
    "no time": ("webhooks/{webhook}/replay", {"since": "yesterday", "per_second": "1"}, 422),
    "a time too early": ("webhooks/{webhook}/replay", {"since": "0001-01-01T00:00", "per_second": "1"}, 422),
    "no rate": ("webhooks/{webhook}/replay", {"since": "2026-01-01T00:00", "per_second": "nan"}, 422),
    "nothing between": ("webhooks/{webhook}/replay", {"since": "2200-01-01T00:00", "per_second": "1"}, 422),
    "neither on nor off": ("webhooks/{webhook}/switch", {"on": "perhaps", "back": "list"}, 422),
    "back to elsewhere": ("webhooks/{webhook}/switch", {"on": "no", "back": "//example.com"}, 422),
    "held as nothing": ("webhooks/{webhook}/switch", {"on": "yes", "back": "list", "held": "sell"}, 422),
    "no URL": ("webhooks", {"topic": "a", "url": ""}, 422),
    "script as URL": ("webhooks", {"topic": "a", "url": "javascript:alert(1)"}, 422),
    "a forbidden address": ("webhooks", {"topic": "a", "url": "https://169.254.169.254/"}, 422),
    "no topic": ("webhooks", {"url": "https://teas.example.com/"}, 422),
    "a rate of nothing": ("webhooks/{webhook}/settings", {"url": "https://teas.example.com/", "rate": "0"}, 422),
    "half a POST": ("webhooks/{webhook}/settings", {"url": "https://teas.example.com/", "max_in_flight": "1.5"}, 422),
    "a header of ours": ("webhooks/{webhook}/settings", {"url": "https://teas.example.com/", "headers": "Host: a"}, 422),
    "no header": ("webhooks/{webhook}/settings", {"url": "https://teas.example.com/", "headers": "a"}, 422),
    "no filter": ("webhooks/{webhook}/settings", {"url": "https://teas.example.com/", "filter": "$..x"}, 422),
    "no overlap": ("api/rotate", {"overlap": "9000d", "sure": "yes"}, 422),
    "not sure": ("api/rotate", {"overlap": "1h"}, 422),
}


@pytest.mark.parametrize(("path", "form", "status"), VALUES.values(), ids=VALUES.keys())
@pytest.mark.usefixtures("unchanged")
async def test_what_cannot_be_meant_changes_nothing(house: House, path: str, form: dict[str, str], status: int) -> None:
    """It is told in words, on the page that it was sent from where that can be corrected there."""
    reply = await house.visitor(house.stalls[0].account_id).post(path_of(f"/accounts/{{account}}/{path}", house, 0, 0), form)
    assert (status, True) == (reply.status, b'role="alert"' in reply.body)


FILTERS = {
    "state=lost": 200, "event=evt_": 200, "event=x": 200, "since=x": 200, "until=0001-01-01T00:00": 200, "webhook=-1": 200,
    "after=x": 422, "after=" + "A" * 9000: 400, "after=W251bGwsbnVsbF0": 200, "state=delivered&topic=%00": 200, "span=x": 200,
}  # fmt: skip


@pytest.mark.parametrize(("query", "status"), FILTERS.items(), ids=[query[:30] for query in FILTERS])
async def test_filters_that_mean_nothing_find_nothing(house: House, query: str, status: int) -> None:
    """And are said to be so; none of them is a fault of ours."""
    reply = await house.visitor(house.stalls[0].account_id).get(f"/accounts/{house.stalls[0].account_id}/deliveries?{query}")
    assert status == reply.status


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com"])
@pytest.mark.usefixtures("unchanged")
async def test_pages_are_not_shown_under_another_name(house: House, host: str) -> None:
    """Whatever session comes along, by the header or by the target."""
    cookie = f"Cookie: {COOKIE}={Signer(TOKEN.encode(), 'session').sign(Grant(None, 9_999_999_999))}"
    for target, name in (("/", host), (f"http://{host}/", "localhost")):
        reply = await house.face.ask(f"GET {target} HTTP/1.1\r\nHost: {name}\r\n{cookie}\r\nConnection: close\r\n\r\n".encode())
        assert 421 == reply.status


async def test_every_answer_carries_the_same_guards(house: House) -> None:
    """Every route's, whoever asks: what a browser may do with it, and that nobody keeps it."""
    for visitor in (house.visitor(None), house.visitor(house.stalls[0].account_id), Visitor(house.face, None)):
        for path in [*PAGES, *OPEN, "/nothing", "/static/nothing"]:
            reply = await visitor.get(path_of(path, house, 0, 0))
            assert _GUARDS == {name: reply.headers.get(name) for name in _GUARDS}, path
        for path, form in ORDERS.items():
            reply = await visitor.post(path_of(path, house, 0, 0), form, csrf="x")
            assert _GUARDS == {name: reply.headers.get(name) for name in _GUARDS}, path


async def test_the_session_is_a_strict_cookie_of_this_host(house: House) -> None:
    """Which no script reads and no other site sends along; half a day at most, and as long as the link where it came by one."""
    reply = await Visitor(house.face, None).post("/login", {"token": TOKEN})
    given = reply.headers["Set-Cookie"]
    assert given.startswith("__Host-bisd=operator.")
    assert {"HttpOnly", "Secure", "SameSite=Strict", "Path=/", "Max-Age=43200"} == set(given.split("; ")[1:])
    reply = await Visitor(house.face, None).get(house.link(house.stalls[0].account_id, 60).removeprefix(house.url))
    assert 200 == reply.status
    assert re.fullmatch(r"Max-Age=(59|60)", next(one for one in reply.headers["Set-Cookie"].split("; ") if "Max-Age" in one))


@pytest.mark.parametrize("path", ["//example.com", "https://example.com", "/\\example.com", "x", "/\r\nSet-Cookie: a=b"])
async def test_a_login_leads_nowhere_else(house: House, path: str) -> None:
    """Where it goes on is a path of ours."""
    reply = await Visitor(house.face, None).post("/login", {"token": TOKEN, "path": path})
    assert (303, "/login?came=yes") == (reply.status, reply.headers["Location"])
    reply = await house.visitor(None).get(f"/login?path={path.encode().hex() if path[:1] != '/' else '//example.com'}")
    assert "/" == reply.headers["Location"]


LINKS = {
    "nothing": "",
    "nonsense": "?key=x",
    "a session": f"?key={Signer(TOKEN.encode(), 'session').sign(Grant(1, 9_999_999_999))}",
    "over": f"?key={Signer(TOKEN.encode(), 'portal link').sign(Grant(1, 1))}",
}


@pytest.mark.parametrize("query", LINKS.values(), ids=LINKS.keys())
async def test_a_link_that_is_none_opens_nothing(house: House, query: str) -> None:
    """It is told so, and there is no session."""
    reply = await Visitor(house.face, None).get(f"/portal{query}")
    assert (403, None) == (reply.status, reply.headers.get("Set-Cookie"))
    assert TEXTS["refused.link"] in text_of(reply)


FOLLOWED = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")


async def test_a_link_from_elsewhere_leads_to_itself(house: House) -> None:
    """Our cookies were not sent along: nothing is begun before it is known whether there are any."""
    path = house.link(house.stalls[0].account_id).removeprefix(house.url)
    reply = await house.visitor(house.stalls[1].account_id).get(path, *FOLLOWED)
    assert (200, None) == (reply.status, reply.headers.get("Set-Cookie"))
    assert f'content="0; url={path}"' in reply.body.decode()


async def test_a_link_replaces_nobody_unasked(house: House) -> None:
    """Whoever is logged in as somebody else is asked, and stays who they are unless they click. Another site cannot click."""
    mine, other = (stall.account_id for stall in house.stalls)
    link = urlsplit(house.link(mine))
    path, key = f"{link.path}?{link.query}", parse_qs(link.query)["key"][0]
    for visitor in (house.visitor(other), house.visitor(None)):
        asked = await visitor.get(path)
        assert (200, None) == (asked.status, asked.headers.get("Set-Cookie"))
        assert TEXTS["opened.other"] in text_of(asked)
        assert key in asked.body.decode()
        clicked = await visitor.post("/portal", {"key": key})
        assert (200, True) == (clicked.status, f"={mine}." in clicked.headers["Set-Cookie"])
        for form, *headers in (({"key": key}, *FOLLOWED), ({"key": "x"},), ({},)):
            refused = await visitor.post("/portal", form, *headers)
            assert (403, None) == (refused.status, refused.headers.get("Set-Cookie"))
    again = await house.visitor(mine).get(path)
    assert (200, True) == (again.status, f"={mine}." in again.headers["Set-Cookie"])


async def test_the_token_cannot_be_guessed(server: Server, tmp_path: Path) -> None:
    """Five wrong ones within a minute, and the right one is not looked at either."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    async with facing(NOWHERE, token_file=token_file) as (_, face):
        visitor = Visitor(face, None)
        replies = [await visitor.post("/login", {"token": "x"}) for _ in range(6)]
        assert [403] * 5 + [429] == [reply.status for reply in replies]
        right = await visitor.post("/login", {"token": TOKEN})
        assert (429, True, None) == (right.status, 0 < int(right.headers["Retry-After"]) <= 60, right.headers.get("Set-Cookie"))


async def test_guesses_that_come_at_once_come_one_by_one(server: Server, tmp_path: Path) -> None:
    """Twenty that are begun before the first one is judged: five are."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    async with facing(NOWHERE, token_file=token_file) as (_, face):
        lines = ("Host: localhost", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 7", "Connection: close")
        connections = [await face.connect() for _ in range(20)]
        for _, writer in connections:
            writer.write("\r\n".join(["POST /login HTTP/1.1", *lines, "", ""]).encode())
            await writer.drain()
        assert 200 == (await face.get("/healthz")).status  # all of them have been read by now, and wait for their forms
        for _, writer in connections:
            writer.write(b"token=x")
        statuses = [int((await reader.read())[9:12]) for reader, _ in connections]
        for _, writer in connections:
            writer.close()
    assert [403] * 5 + [429] * 15 == sorted(statuses)


async def test_without_a_token_there_are_no_pages(server: Server) -> None:
    """What to do is said; who probes whether it lives is answered all the same."""
    async with facing(NOWHERE) as (_, face):
        visitor = Visitor(face, Signer(b"", "session").sign(Grant(None, 9_999_999_999)))
        for path in ("/", "/accounts/1/webhooks", "/login", "/portal"):
            reply = await visitor.get(path)
            assert (403, True) == (reply.status, "[http] token_file" in text_of(reply)), path
        for path in ("/login", "/accounts/1/webhooks"):
            assert 403 == (await visitor.post(path, {"token": ""})).status
        assert 200 == (await face.get("/healthz")).status


async def test_while_the_database_is_away_pages_say_so(tmp_path: Path) -> None:
    """503, with a time to ask again; and the session is kept."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    async with facing(NOWHERE, token_file=token_file) as (_, face):
        visitor = Visitor(face, Signer(TOKEN.encode(), "session").sign(Grant(None, 9_999_999_999)))
        for path in ("/", "/accounts/1/webhooks"):
            reply = await visitor.get(path)
            assert (503, "2") == (reply.status, reply.headers.get("Retry-After")), path


async def test_a_daemon_that_may_not_act_says_what_to_grant(house: House) -> None:
    """The orders of a role that has only bisd_daemon are refused in words, and its pages are shown."""
    connection = house.stalls[0].shop.connection
    await connection.execute("create role narrow login; grant bisd_daemon to narrow")
    dsn = re.sub(r"//[^@/]*@", "//narrow@", house.dsn)
    token_file = Path(str(house.service._config.http.token_file))
    try:
        async with facing(dsn, replace(house.service._config), token_file=token_file) as (service, face):
            await service.ready.wait()
            visitor = Visitor(face, Signer(TOKEN.encode(), "session").sign(Grant(None, 9_999_999_999), "nonce"))
            own = path_of("/accounts/{account}/webhooks/{webhook}", house, 0, 0)
            assert 200 == (await visitor.get(own)).status
            reply = await visitor.post(f"{own}/test", {})
            assert (403, True) == (reply.status, "grant bisd_admin" in text_of(reply))
    finally:
        await connection.execute("drop owned by narrow; drop role narrow")


async def _stream(house: House, visitor: Visitor, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await house.face.connect()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{visitor._cookies()[0]}\r\n\r\n".encode())
    return reader, writer


async def test_a_stream_tells_of_what_happens_and_of_nothing_else(house: House) -> None:
    """A word when something was delivered to the account, within moments; none of what is another's."""
    mine, other = house.stalls
    reader, writer = await _stream(house, house.visitor(mine.account_id), f"/accounts/{mine.account_id}/live")
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Content-Type: text/event-stream" in head
            await reader.readuntil(b": \n\n")
            await other.shop.notify()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5):
                    await reader.readuntil(b"event: changed\n")
            await mine.shop.notify()
            await reader.readuntil(b"event: changed\n")
    finally:
        writer.close()


async def test_streams_are_few(house: House) -> None:
    """One more than an account may have is told to come back; when one ends, there is room again."""
    mine = house.stalls[1]
    visitor, path = house.visitor(mine.account_id), f"/accounts/{mine.account_id}/live"
    streams = [await _stream(house, visitor, path) for _ in range(live.MOST_OF_ONE)]
    try:
        for reader, _ in streams:
            await reader.readuntil(b": \n\n")
        reply = await visitor.get(path)
        assert (503, "10") == (reply.status, reply.headers.get("Retry-After"))
    finally:
        for _, writer in streams:
            writer.close()

    async def has_room() -> bool:
        reader, writer = await _stream(house, visitor, path)
        try:
            return b" 200 " in await reader.readuntil(b"\r\n")
        finally:
            writer.close()

    await eventually(has_room)


async def test_a_stream_ends_with_the_daemon(server: Server, authority: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    """At once, and the daemon does not wait for it."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    async with opened(await server.create(), authority, ca_file, token_file) as house:
        reader, writer = await _stream(house, house.visitor(None), "/live")
        await reader.readuntil(b": \n\n")
        house.service.stop()
        async with asyncio.timeout(0.9):
            await reader.read()
        assert reader.at_eof()
        writer.close()


async def test_what_others_wrote_is_text(house: House) -> None:
    """Of merchants and receivers, on every page: markup is shown as it was written, what cannot be seen is made visible; only
    in a field, where it can be changed, it is as it is."""
    mine = house.stalls[1]
    connection = mine.shop.connection
    evil = "<script>alert(1)</script>\u202e\x1b[2J'\"&"
    await connection.execute("update bisd.account set name = $2 where id = $1", mine.account_id, evil)
    await connection.execute("update bisd.webhook set description = $2 where id = $1", mine.webhook_id, evil)
    await connection.execute("update bisd.webhook set note = $2 where id = $1", mine.webhook_id, evil)
    body = '{"a":"<script>alert(1)</script>\u202e"}'
    event_id = await connection.fetchval("select bisd.emit($1, 'notification/create', $2)", mine.account_id, body)

    async def is_tried() -> bool:
        return bool(await connection.fetchval("select count(*) from bisd.attempt where event_id = $1", event_id))

    await eventually(is_tried)
    await connection.execute(
        "update bisd.attempt set answer = $2, location = $3 where event_id = $1", event_id, evil.encode(), evil
    )
    visitor = house.visitor(None)
    base = f"/accounts/{mine.account_id}"
    for path in (
        "/accounts", f"{base}/webhooks", f"{base}/webhooks/{mine.webhook_id}", f"{base}/deliveries",
        f"{base}/deliveries/{event_id}/{mine.webhook_id}", f"{base}/webhooks/{mine.webhook_id}/remove",
        f"{base}/deliveries?topic=%3Cscript%3Ealert(1)",
    ):  # fmt: skip
        reply = await visitor.get(path)
        text = re.sub(r'value="[^"]*"', "", reply.body.decode())
        assert (200, False, True) == (reply.status, bool(re.search(r"<script>|\u202e|\x1b", text)), "&lt;script&gt;" in text), (
            path
        )


async def test_a_link_is_made_by_the_api_for_the_operator_alone(house: House) -> None:
    """It opens the pages of that account, as long as was wanted; a token of an account makes none."""
    mine = house.stalls[0]
    visitor, path = Visitor(house.face, None), f"/api/v1/accounts/{mine.account_id}/portal-link"
    token = await mine.shop.connection.fetchval("select token from bisd.create_token($1, 'a program', null)", mine.account_id)
    operators, accounts = (f"Authorization: Bearer {one}" for one in (TOKEN, token))
    reply = await visitor.send(path, b'{"lasting": "10m"}', operators, content_type="application/json")
    assert 201 == reply.status
    parts = urlsplit(reply.json["url"])
    assert parts.path == "/portal"
    opened = await visitor.get(f"{parts.path}?{parts.query}")
    assert (200, True) == (opened.status, f"{COOKIE}={mine.account_id}." in opened.headers["Set-Cookie"])
    for lasting, bearer, where, status in (
        ("10m", accounts, path, 403), ("31d", operators, path, 422), ("0s", operators, path, 422),
        ("10m", operators, "/api/v1/accounts/999999/portal-link", 404),
    ):  # fmt: skip
        body = f'{{"lasting": "{lasting}"}}'.encode()
        assert status == (await visitor.send(where, body, bearer, content_type="application/json")).status, (lasting, where)


async def test_a_link_is_made_on_the_command_line(house: House, tmp_path: Path) -> None:
    """It begins with what a browser calls the daemon; what is missing is said."""
    file, account_id = tmp_path / "shop.toml", str(house.stalls[0].account_id)
    database = f'[database]\ndsn = "{house.dsn}"\n[http]\npublic_url = "https://bisd.example.com"\n'
    bisd = Run(file)
    file.write_text(database)
    without = await asyncio.to_thread(bisd, "portal-link", account_id)
    assert (2, True) == (without.returncode, "http.token_file" in without.stderr)
    file.write_text(f'{database}token_file = "{house.service._config.http.token_file}"\n')
    made = await asyncio.to_thread(bisd, "portal-link", account_id, "--for", "10m")
    assert (0, True) == (made.returncode, made.stdout.startswith("https://bisd.example.com/portal?key="))
    reply = await Visitor(house.face, None).get(made.stdout.strip().removeprefix("https://bisd.example.com"))
    assert 200 == reply.status
    for arguments in (["999999"], [account_id, "--for", "31d"]):
        assert 1 == (await asyncio.to_thread(bisd, "portal-link", *arguments)).returncode


async def test_what_is_left_of_a_delivery_is_shown_when_its_event_is_gone(house: House) -> None:
    """Attempts may be kept for longer than events: the page has them, says that there is no body, and offers nothing that needs
    one."""
    mine = house.stalls[0]
    connection = mine.shop.connection
    await connection.execute(
        "insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status) "
        "values (777777, $1, now(), now() - interval '40 d', 1, 'failed', 500)",
        mine.webhook_id,
    )
    reply = await house.visitor(mine.account_id).get(f"/accounts/{mine.account_id}/deliveries/777777/{mine.webhook_id}")
    text = text_of(reply)
    assert (200, True, True) == (reply.status, "Attempt 1" in text, TEXTS["delivery.gone"] in text)
    assert TEXTS["delivery.send_again"] not in text


async def test_what_is_ordered_on_a_page_is_logged(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    """What, by whom, and what it was about; not what was only asked, nor what was refused."""
    log.configure("info", "json")
    mine = house.stalls[0]
    visitor, base = house.visitor(mine.account_id), f"/accounts/{mine.account_id}/webhooks/{mine.webhook_id}"
    assert 303 == (await visitor.post(f"{base}/settings", {"url": house.receiver.url, "description": "CRM"})).status
    assert 422 == (await visitor.post(f"{base}/settings", {"url": ""})).status
    assert 200 == (await visitor.get(base)).status
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    about = {"account_id": mine.account_id, "webhook_id": mine.webhook_id}
    assert [("changeWebhook", mine.account_id, about)] == [
        (line["operation"], line["account_id"], line["about"]) for line in logged if line["event"] == "order"
    ]


@pytest.mark.parametrize("path", STREAMS)
async def test_nobody_asks_for_the_head_of_a_stream(house: House, path: str) -> None:
    """It would have no end."""
    cookie = house.visitor(None)._cookies()[0]
    assert 405 == (await house.face.get(path_of(path, house, 0, 0), cookie, method="HEAD")).status
