"""The ceiling: what the bare aiohttp client does with the same requests, signed the same way, and no database.

    python -m bisd.bench.ceiling '{"url": ..., "number": ..., "webhooks": ..., "in_flight": ..., "ca_file": ...}'

Prints requests per second and microseconds of CPU per request, as JSON. {id} in the URL is the number of the webhook.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from datetime import datetime

import aiohttp
import uvloop

from bisd.delivery.message import compose
from bisd.model import Delivery, Webhook

BODY = json.dumps(
    {
        "notification_id": 1, "topic": "notification/create", "timestamp": "2023-09-11T12:13:45Z", "channel": "email",
        "customer": {"email": "someone@example.com", "sms": None}, "quantity_required": 1, "customer_language": "en-GB",
        "customer_utc_offset": 14400, "created_at": "2023-09-09T14:33:10Z",
        "product": {"product_id": 8339067207909, "product_title": "Black Tea", "variant_id": 44211925318693,
                    "variant_title": "Small", "sku": None},
    }, separators=(",", ":"),
).encode()  # fmt: skip


async def bare(url: str, number: int, webhooks: int, in_flight: int, ca_file: str) -> dict[str, float]:
    context = ssl.create_default_context(cafile=ca_file) if url.startswith("https") else True
    now = datetime.now().astimezone()
    targets = [Webhook(id, id, url.format(id=id), "bis_" + "k" * 64, None, None, None, True) for id in range(1, webhooks + 1)]
    todo = iter(range(number))
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=cookies, auto_decompress=False) as session:

        async def work() -> None:
            for one in todo:
                webhook = targets[one % webhooks]
                delivery = Delivery(webhook.id, one, now, now, now, 0, "notification/create", BODY, len(BODY))
                message = compose(webhook, delivery, now)
                async with session.post(
                    webhook.url, data=message.body, headers=message.headers, allow_redirects=False
                ) as response:
                    await response.read()
                    if response.status != 200:
                        raise RuntimeError(f"status {response.status}")

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
    return {"bare": number / seconds, "bare_cpu": used / number * 1e6}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(bare(**json.loads(sys.argv[1])))))
