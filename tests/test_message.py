"""The message: the exact bytes, headers and signatures that receivers verify."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks import WebhookVerificationError

from bisd import __version__
from bisd.delivery.message import compose, sign
from bisd.model import Delivery, Message, Webhook

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY, PREVIOUS = "key-of-the-account-now", "key-of-the-account-then"
BODY = b'{"topic":"notification/sent","customer":{"email":"a@example.com","sms":null},"product_title":"Th\xc3\xa9"}'
WEBHOOK = Webhook(7, 1, "https://example.com/hook?a=1", KEY, None, None, None, True)
ROTATED = WEBHOOK._replace(previous_api_key=PREVIOUS, previous_until=NOW + timedelta(hours=24))
DELIVERY = Delivery(7, 12345, NOW, NOW, NOW, 0, "notification/sent", BODY, len(BODY))

HEADERS = {
    "Content-Type",
    "User-Agent",
    "Accept",
    "Accept-Encoding",
    "X-BIS-Signature",
    "X-BIS-Topic",
    "X-BIS-Attempt",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
}

keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)


def verified(key: str, message: Message, headers: dict[str, str] | None = None) -> bool:
    """What a receiver with a Standard Webhooks library makes of it."""
    library = StandardWebhook("whsec_" + base64.b64encode(key.encode()).decode())
    try:
        library.verify(message.body, headers or message.headers)
    except WebhookVerificationError:
        return False
    return True


def openssl(key: str, body: bytes) -> str:
    macopt = ["-mac", "HMAC", "-macopt", f"hexkey:{key.encode().hex()}"]
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", *macopt, "-binary"], input=body, capture_output=True, check=True
    ).stdout
    return subprocess.run(["base64", "-w0"], input=digest, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("key", [KEY, "k" * 200, " with blanks \n", "clé-ключ-鍵", "whsec_c2VjcmV0c2VjcmV0"])
@pytest.mark.parametrize("body", [b"", BODY, b"\x00\xff" * 5000], ids=["empty", "document", "binary"])
def test_signature_is_what_openssl_prints(key: str, body: bytes) -> None:
    """X-BIS-Signature is base64 of HMAC-SHA256 with the bytes of the key as they are: any tool can check it."""
    assert openssl(key, body) == sign(key, body)


def test_signature_is_that_of_the_documented_example() -> None:
    """A value computed once and for all: an upgrade cannot change what receivers compare with."""
    expected = "97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg="
    assert expected == sign("key", b"The quick brown fox jumps over the lazy dog")


@given(key=keys, body=st.binary(max_size=2000))
@example(key="k" * 64, body=b"")
@example(key="k" * 65, body=b"")
def test_signature_is_hmac_sha256_in_one_line_of_base64(key: str, body: bytes) -> None:
    """For any key and any body: standard base64, padded, without a line break."""
    expected = base64.b64encode(hmac.new(key.encode(), body, hashlib.sha256).digest()).decode()
    assert expected == sign(key, body)


@given(key=keys, event_id=st.integers(1, 2**63 - 1), attempts=st.integers(0, 1000))
def test_standard_webhooks_libraries_verify_it(key: str, event_id: int, attempts: int) -> None:
    """With the secret whsec_ + base64 of the API key's bytes, a Standard Webhooks library accepts every message."""
    delivery = DELIVERY._replace(event_id=event_id, attempts=attempts)
    message = compose(WEBHOOK._replace(api_key=key), delivery, datetime.now(UTC))
    assert verified(key, message)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_standard_webhooks_signature_covers_identity_and_time(name: str) -> None:
    """Who alters the id, the time or the signature on the way is found out."""
    message = compose(WEBHOOK, DELIVERY, datetime.now(UTC))
    timestamp = str(int(message.headers["webhook-timestamp"]) - 1)
    other = {"webhook-id": "evt_1", "webhook-timestamp": timestamp, "webhook-signature": "v1," + sign(KEY, BODY)}
    assert (True, False) == (
        verified(KEY, message),
        verified(KEY, message, {**message.headers, name: other[name]}),
    )


def test_headers_are_the_documented_ones() -> None:
    """Exactly the headers of INTERFACE.md, with these values, plus what every request needs."""
    message = compose(WEBHOOK, DELIVERY, NOW)
    signed = b"evt_12345.%d." % NOW.timestamp() + BODY
    assert HEADERS == set(message.headers)
    assert {
        "Content-Type": "application/json",
        "User-Agent": f"bisd/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "X-BIS-Signature": openssl(KEY, BODY),
        "X-BIS-Topic": "notification/sent",
        "X-BIS-Attempt": "1",
        "webhook-id": "evt_12345",
        "webhook-timestamp": "1767268800",
        "webhook-signature": "v1," + openssl(KEY, signed),
    } == message.headers


def test_a_webhook_s_own_headers_go_with_ours() -> None:
    """As they are, and nothing else changes; one that has none gets ours alone."""
    own = {"Authorization": "Bearer abc", "X-Shop": "teas"}
    ours = compose(WEBHOOK, DELIVERY, NOW).headers
    assert [ours | own, ours] == [compose(WEBHOOK._replace(headers=headers), DELIVERY, NOW).headers for headers in (own, {})]


@given(body=st.binary(max_size=2000))
def test_body_is_not_touched(body: bytes) -> None:
    """The very bytes that were frozen when it happened are signed and sent."""
    message = compose(WEBHOOK, DELIVERY._replace(body=body), NOW)
    assert (body, WEBHOOK.url, sign(KEY, body)) == (message.body, message.url, message.headers["X-BIS-Signature"])


def test_attempts_differ_only_in_number_and_time() -> None:
    """Id and body's signature are the same at every attempt, by which receivers drop repeats; the time is fresh."""
    first = compose(WEBHOOK, DELIVERY, NOW)
    third = compose(WEBHOOK, DELIVERY._replace(attempts=2), NOW + timedelta(hours=1, milliseconds=900))
    changed = {name for name in HEADERS if first.headers[name] != third.headers[name]}
    assert {"X-BIS-Attempt", "webhook-timestamp", "webhook-signature"} == changed
    assert ("3", "1767272400") == (third.headers["X-BIS-Attempt"], third.headers["webhook-timestamp"])
    assert first.body == third.body


def test_both_keys_verify_while_a_rotation_overlaps() -> None:
    """A receiver that still has the previous key and one that has the new one both accept the same message."""
    now = datetime.now(UTC)
    message = compose(ROTATED._replace(previous_until=now + timedelta(hours=24)), DELIVERY, now)
    assert HEADERS | {"X-BIS-Signature-Previous"} == set(message.headers)
    assert (sign(KEY, BODY), sign(PREVIOUS, BODY)) == (
        message.headers["X-BIS-Signature"],
        message.headers["X-BIS-Signature-Previous"],
    )
    assert ["v1", "v1"] == [part.partition(",")[0] for part in message.headers["webhook-signature"].split(" ")]
    assert (True, True, False) == (verified(KEY, message), verified(PREVIOUS, message), verified("another", message))


@pytest.mark.parametrize(("after", "signatures"), [(-1, 2), (0, 1), (1, 1)], ids=["before", "at", "after"])
def test_previous_key_stops_signing_when_its_time_is_over(after: int, signatures: int) -> None:
    """From previous_until on, the previous key signs nothing any more."""
    message = compose(ROTATED, DELIVERY, NOW + timedelta(hours=24, microseconds=after))
    assert signatures == len(message.headers["webhook-signature"].split(" "))
    assert (signatures == 2) == ("X-BIS-Signature-Previous" in message.headers)
    assert sign(KEY, BODY) == message.headers["X-BIS-Signature"]


@pytest.mark.parametrize("trace", [None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_the_trace_of_the_application_goes_on(trace: str | None) -> None:
    """As W3C Trace Context writes it, where the application gave one; otherwise there is no such header."""
    headers = compose(WEBHOOK, DELIVERY._replace(traceparent=trace), NOW).headers
    assert trace == headers.get("traceparent")
    assert HEADERS | ({"traceparent"} if trace else set()) == headers.keys()
