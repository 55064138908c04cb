"""Message: the exact bytes, headers and signatures of one attempt. Pure."""

from __future__ import annotations

import hmac
from binascii import b2a_base64
from datetime import datetime

from bisd import __version__
from bisd.model import Delivery, Message, Webhook

_USER_AGENT = f"bisd/{__version__}"


def sign(key: str, content: bytes) -> str:
    """Base64 of HMAC-SHA256(key, content), the key being the bytes of its text: what the documented Ruby code computes."""
    return b2a_base64(hmac.digest(key.encode(), content, "sha256"), newline=False).decode("ascii")


def compose(webhook: Webhook, delivery: Delivery, now: datetime) -> Message:
    """The request for the next attempt at `now`: the same body and webhook-id at every attempt, the timestamp fresh.

    Headers after the seed document (X-BIS-Signature) and the Standard Webhooks specification (webhook-*). While a rotation
    overlaps, the previous key signs too. The application's trace goes on, if it gave one (W3C Trace Context). A webhook's own
    headers come last; the database holds none that is one of ours.
    """
    body = delivery.body
    identity = f"evt_{delivery.event_id}"
    timestamp = str(int(now.timestamp()))
    signed = f"{identity}.{timestamp}.".encode() + body
    headers = {
        "Content-Type": "application/json",
        "User-Agent": _USER_AGENT,
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "X-BIS-Signature": sign(webhook.api_key, body),
        "X-BIS-Topic": delivery.topic,
        "X-BIS-Attempt": str(delivery.attempts + 1),
        "webhook-id": identity,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + sign(webhook.api_key, signed),
    }
    previous = webhook.previous_api_key
    if previous is not None and webhook.previous_until is not None and now < webhook.previous_until:
        headers["X-BIS-Signature-Previous"] = sign(previous, body)
        headers["webhook-signature"] += " v1," + sign(previous, signed)
    if delivery.traceparent is not None:
        headers["traceparent"] = delivery.traceparent
    if webhook.headers is not None:
        headers.update(webhook.headers)
    return Message(webhook.url, headers, body)
