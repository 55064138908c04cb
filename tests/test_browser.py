"""The pages in a real Chromium: what a merchant does from the first webhook on, live and without script."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from bisd.admin.pages.gate import COOKIE
from bisd.delivery.message import sign
from tests.support.pages import TOKEN, House, opened
from tests.support.postgres import Server
from tests.support.shop import Shop, eventually

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing (Debian: chromium)"),
]
# Of axe: what keeps somebody from using a page, or nearly.
GRAVE = {"serious", "critical"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all of these tests; each has a profile of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    server: Server, authority: trustme.CA, ca_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """One daemon, whose receiver answers 500 with words under /broken."""
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(TOKEN)
    async with opened(await server.create(), authority, ca_file, token_file) as house:

        async def answer(request: web.Request) -> web.StreamResponse:
            broken = request.path == "/broken"
            return web.Response(status=500 if broken else 200, text="<script>alert(1)</script>\u202eno" if broken else "")

        house.receiver.answer = answer
        yield house


@asynccontextmanager
async def visiting(browser: Browser, link: str, **profile: Any) -> AsyncIterator[Page]:
    """Somebody who has opened the link; nothing on the pages may go wrong meanwhile."""
    context = await browser.new_context(**profile)
    faults: list[str] = []
    page = await context.new_page()
    page.set_default_timeout(8000)
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" and "404" not in line.text else None)
    await page.goto(link)
    await page.wait_for_url("**/" if "key=operator" in link else "**/webhooks")
    try:
        yield page
    finally:
        await context.close()
    assert [] == faults


@pytest_asyncio.fixture(loop_scope="module")
async def shop(house: House) -> AsyncIterator[Shop]:
    """Another shop, which has nothing yet."""
    shop = await Shop.open(house.dsn)
    yield shop
    shop.connection.terminate()


async def test_from_the_first_webhook_to_a_delivery_that_is_seen_live(browser: Browser, house: House, shop: Shop) -> None:
    """Create, switch on, and somebody else inserts a notification: it appears, delivered, on the page that is open, which is
    not loaded again."""
    async with visiting(browser, house.link(shop.account_id)) as page:
        await expect(page.get_by_role("heading", name="No webhook yet")).to_be_visible()
        await page.get_by_label("Topic").fill("notification/create")
        await page.get_by_label("URL").fill(house.receiver.url)
        await page.get_by_role("button", name="Create Webhook").click()
        await expect(page.get_by_role("status").first).to_contain_text("Created.")
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "false")
        await page.get_by_role("switch").click()
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")
        await page.get_by_role("link", name="Deliveries", exact=True).click()
        await expect(page.get_by_role("heading", name="No delivery yet")).to_be_visible()
        await expect(page.locator("#live.on")).to_be_visible()
        await page.evaluate("window.stillHere = true")
        await shop.notify()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody tr")).to_contain_text("Delivered")
        await shop.notify(2)
        await expect(page.locator("tbody tr", has_text="Delivered")).to_have_count(3)
        assert await page.evaluate("window.stillHere")


async def test_a_test_payload_shows_what_the_receiver_answered(browser: Browser, house: House, shop: Shop) -> None:
    """500 and its words, as text, within a second of the click; and how the time passed."""
    webhook_id = await shop.subscribe("notification/sent", f"{house.receiver.url}broken")
    async with visiting(browser, house.link(shop.account_id)) as page:
        await page.goto(f"{house.url}/accounts/{shop.account_id}/webhooks/{webhook_id}")
        began = monotonic()
        await page.get_by_role("button", name="Send test payload").click()
        result = page.locator("#test-result")
        await expect(result).to_contain_text("500")
        assert monotonic() - began < 1.0
        await expect(result).to_contain_text("Your endpoint has not taken it.")
        await expect(result).to_contain_text("<script>alert(1)</script>U+202Eno")
        await expect(result.get_by_role("img")).to_be_visible()
        await result.get_by_text("Request headers").click()
        await expect(result).to_contain_text("X-BIS-Topic: notification/sent")


async def test_a_key_is_hidden_rotated_and_verifies(browser: Browser, house: House, shop: Shop) -> None:
    """It is shown when it is asked for; after a rotation it is another one, what the old one signed is genuine meanwhile."""
    async with visiting(browser, house.link(shop.account_id)) as page:
        await page.get_by_role("link", name="API", exact=True).click()
        assert shop.key not in await page.content()
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#api-key")).to_have_text(shop.key)
        await page.get_by_label("I will give my endpoint the new key").check()
        await page.get_by_role("button", name="Rotate").click()
        await expect(page.get_by_text("The key before it signs too, until")).to_be_visible()
        assert shop.key not in await page.content()
        await page.get_by_role("button", name="Show").click()
        fresh = await page.locator("#api-key").inner_text()
        assert (True, False) == (fresh.startswith("bis_"), fresh == shop.key)
        body = '{"notification_id":12345}'
        for signature, verdict in (
            (sign(fresh, body.encode()), "this key signed"),
            (sign(shop.key, body.encode()), "the key before this one signed"),
            ("x", "Not genuine"),
        ):
            await page.get_by_label("Body").fill(body)
            await page.get_by_label("X-BIS-Signature").fill(signature)
            await page.get_by_role("button", name="Check").click()
            await expect(page.locator("#verdict")).to_contain_text(verdict)


async def test_a_key_is_copied(browser: Browser, house: House, shop: Shop) -> None:
    """By a button, which says that it is done."""
    mine = house.stalls[0]
    async with visiting(browser, house.link(mine.account_id), permissions=["clipboard-read", "clipboard-write"]) as page:
        await page.goto(f"{house.url}/accounts/{mine.account_id}/api")
        await page.get_by_role("button", name="Show").click()
        await page.get_by_role("button", name="Copy").first.click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert mine.shop.key == await page.evaluate("navigator.clipboard.readText()")


async def test_a_window_is_replayed_and_taken_back(browser: Browser, house: House, shop: Shop) -> None:
    """What was delivered goes out again; slowly, so that there is something left to be cancelled, and the page tells how
    much."""
    webhook_id = await shop.subscribe("notification/create", house.receiver.url)
    await shop.notify(20)

    async def is_quiet() -> bool:
        query = "select count(*) from bisd.delivery where webhook_id = $1"
        return await shop.connection.fetchval(query, webhook_id) == 0

    await eventually(is_quiet)
    sent = len(house.receiver.requests)
    async with visiting(browser, house.link(shop.account_id)) as page:
        await page.goto(f"{house.url}/accounts/{shop.account_id}/webhooks/{webhook_id}")
        await page.get_by_label("Only what failed").uncheck()
        await page.get_by_label("Per second").fill("1")
        await page.get_by_role("button", name="Replay").click()
        await expect(page.locator("#replaying")).to_contain_text("deliveries are still to go.")
        await expect(page.get_by_role("progressbar", name="Replayed")).to_be_visible()
        await house.receiver.received(sent + 1)
        await page.get_by_role("button", name="Cancel the rest").click()
        await expect(page.get_by_role("status").first).to_contain_text("taken back")
        await expect(page.locator("#replaying")).to_have_text("")
    assert await is_quiet()


async def test_what_is_still_owed_is_sent_now_or_cancelled(browser: Browser, house: House, shop: Shop) -> None:
    """On the page of a delivery, which shows each attempt."""
    webhook_id = await shop.subscribe("notification/create", f"{house.receiver.url}broken")
    await shop.notify()
    query = "select state from bisd.delivery_status where webhook_id = $1"

    async def has_failed() -> bool:
        return await shop.connection.fetchval(query, webhook_id) == "failed"

    await eventually(has_failed)
    async with visiting(browser, house.link(shop.account_id)) as page:
        await page.goto(f"{house.url}/accounts/{shop.account_id}/deliveries?state=failed")
        await page.locator("tbody a").click()
        await expect(page.get_by_role("heading", name="Attempt 3")).to_be_visible()
        await page.get_by_role("button", name="Send again").click()
        await expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator("#facts")).to_contain_text("Cancelled")


async def test_a_link_opens_one_account_and_no_other(browser: Browser, house: House) -> None:
    """The session that it gives is a strict cookie, kept on this machine without TLS too; another account's page is not there,
    nor are the operator's."""
    mine, other = house.stalls
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(house.link(mine.account_id))
    await page.wait_for_url(f"**/accounts/{mine.account_id}/webhooks")
    cookie = next(one for one in await context.cookies() if one["name"] == COOKIE)
    assert (True, True, "Strict") == (cookie["httpOnly"], cookie["secure"], cookie["sameSite"])
    for path in (f"/accounts/{other.account_id}/webhooks", f"/accounts/{other.account_id}/api", "/accounts"):
        answer = await page.goto(f"{house.url}{path}")
        assert answer is not None and answer.status == 404
        await expect(page.get_by_role("alert")).to_have_text("There is no such page, or it is not yours.")
    await page.goto(f"{house.url}/")
    await page.wait_for_url(f"**/accounts/{mine.account_id}/webhooks")
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("Operator token")).to_be_focused()
    await context.close()


async def test_a_link_on_another_site_is_followed_and_replaces_nobody_unasked(browser: Browser, house: House) -> None:
    """Its page leads on to where the strict cookie is sent along: who has none is let in without a click, who is somebody else
    already is asked, and stays that, or not."""
    mine, other = house.stalls
    context = await browser.new_context()
    page = await context.new_page()
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if "/portal?" in request.url else None)

    async def follow(account_id: int) -> None:
        await page.goto("about:blank")
        await page.set_content(f'<a href="{house.link(account_id)}">Your webhooks</a>')
        await page.get_by_role("link").click()

    await follow(mine.account_id)
    await page.wait_for_url(f"**/accounts/{mine.account_id}/webhooks")
    assert ["cross-site", "same-origin"] == [(await request.all_headers())["sec-fetch-site"] for request in asked]
    await follow(other.account_id)
    await expect(page.get_by_text("This browser is logged in for other pages.")).to_be_visible()
    await page.get_by_role("link", name="Stay").click()
    await page.wait_for_url(f"**/accounts/{mine.account_id}/webhooks")
    await follow(other.account_id)
    await page.get_by_role("button", name="Log in for these instead").click()
    await page.wait_for_url(f"**/accounts/{other.account_id}/webhooks")
    await context.close()


async def test_the_operator_logs_in_and_sees_all_of_it(browser: Browser, house: House) -> None:
    """With the token; and goes on to where they wanted to be."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{house.url}/accounts")
    await page.get_by_label("Operator token").fill(TOKEN)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url("**/accounts")
    await expect(page.get_by_role("link", name="Tea Shop").first).to_be_visible()
    await page.get_by_role("link", name="Overview").click()
    await expect(page.get_by_role("img", name="Attempts over time, stacked")).to_be_visible()
    await context.close()


async def test_without_script_everything_can_be_done(browser: Browser, house: House, shop: Shop) -> None:
    """Create, switch, test, see the answer; times are UTC and say so."""
    async with visiting(browser, house.link(shop.account_id), java_script_enabled=False) as page:
        await page.get_by_label("Topic").fill("notification/create")
        await page.get_by_label("URL").fill(house.receiver.url)
        await page.get_by_role("button", name="Create Webhook").click()
        await page.get_by_role("switch").click()
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")
        await page.get_by_role("button", name="Send test payload").click()
        await expect(page.locator("#test-result")).to_contain_text("Your endpoint has taken it")
        await page.get_by_role("link", name="Deliveries", exact=True).click()
        await expect(page.locator("tbody tr time").first).to_contain_text("UTC")
        await page.get_by_role("link", name="API", exact=True).click()
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#api-key")).to_have_text(shop.key)


async def test_times_are_in_the_readers_zone(browser: Browser, house: House) -> None:
    """And exact, with UTC, where somebody points at them."""
    mine = house.stalls[0]
    profile = {"timezone_id": "Asia/Kolkata", "locale": "en-GB"}
    async with visiting(browser, house.link(mine.account_id), **profile) as page:
        await page.goto(f"{house.url}/accounts/{mine.account_id}/deliveries")
        time = page.locator("tbody time").first
        at = await page.evaluate(
            "one => new Intl.DateTimeFormat('en-GB', {timeZone: 'Asia/Kolkata', hour: '2-digit', minute: '2-digit', "
            "second: '2-digit'}).format(new Date(one.dateTime))",
            await time.element_handle(),
        )
        await expect(time).to_contain_text(at)
        assert " UTC)" in str(await time.get_attribute("title"))


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360)])
async def test_nobody_is_shut_out(browser: Browser, house: House, scheme: str, width: int) -> None:
    """axe finds nothing serious on any page, and no page is wider than what it is looked at with."""
    mine = house.stalls[0]
    base = f"/accounts/{mine.account_id}"
    webhook = f"{base}/webhooks/{mine.webhook_id}"
    places = [
        "/", "/accounts", f"{base}/webhooks", f"{webhook}?test={mine.event_id}&done=saved", f"{webhook}/remove",
        f"{base}/deliveries", f"{base}/deliveries?state=failed", f"{base}/deliveries/{mine.event_id}/{mine.webhook_id}",
        f"{base}/api", "/accounts/999999/webhooks",
    ]  # fmt: skip
    axe = AXE_FILE_PATH.read_text(encoding="utf-8")
    profile = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    async with visiting(browser, house.link(None), **profile) as page:
        for place in places:
            await page.goto(f"{house.url}{place}", wait_until="domcontentloaded")
            assert width >= await page.evaluate("document.documentElement.scrollWidth"), place
            await page.evaluate(axe)
            answer = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            grave = [one for one in answer["violations"] if one["impact"] in GRAVE]
            assert [] == [(one["id"], one["nodes"][0]["html"]) for one in grave], place


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nobody_is_shut_out_at_the_door(browser: Browser, house: House, scheme: str) -> None:
    """Nor by the page that asks to log in."""
    context = await browser.new_context(color_scheme=cast(Any, scheme), bypass_csp=True)
    page = await context.new_page()
    await page.goto(f"{house.url}/login")
    await page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    answer = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [] == [one["id"] for one in answer["violations"] if one["impact"] in GRAVE]
    await context.close()
