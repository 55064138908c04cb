"""Merchants: one endpoint for each webhook, on one receiver over TLS, each in its mood; what comes is entered in the ledger.

A merchant may also lie in wait: at a stage of a request he kills the daemon that is sending it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
from dataclasses import dataclass
from time import monotonic, time

import trustme
from aiohttp import web

from bisd.delivery.message import sign
from tests.support.receiver import Receiver
from tests.torture.ledger import Ledger, Request
from tests.torture.trap import SENDER

# How he answers: at once; late, but in time; a fifth of the time 500; not before the daemon has given up; by RST; by 503; by
# what is not HTTP; by headers without an end.
HOSTILE = ("hanging", "resetting", "failing", "babbling", "flooding")
CALM = ("well", "slow", "flaky")
MOODS = (*CALM, *HOSTILE)
# When he kills: as soon as the headers are there, once the body is, and when he has answered.
STAGES = ("head", "body", "answered")


@dataclass
class Ambush:
    """At this stage of the `passes`-th request from that process it is killed."""

    stage: str
    passes: int
    pid: int


class Merchants:
    """Each has a name, which is the path of his URL; `names` has the id of his webhook, `keys` what he verifies with.
    `timeout`: seconds after which a daemon no longer waits for an answer."""

    def __init__(self, authority: trustme.CA, ledger: Ledger, timeout: float, rng: random.Random) -> None:
        self.moods: dict[str, str] = {}
        self.names: dict[str, int] = {}
        self.keys: dict[str, str] = {}
        self.ambushes: list[Ambush] = []
        self._ledger = ledger
        self._timeout = timeout
        self._rng = rng
        self._receiver = Receiver(authority)
        self._receiver.keep_bodies = False
        self._receiver.begun = self._begin
        self._receiver.answer = self._answer

    async def start(self) -> None:
        await self._receiver.start()

    async def stop(self) -> None:
        await self._receiver.stop()

    def url(self, name: str) -> str:
        return f"{self._receiver.url}{name}"

    def calm(self) -> None:
        """From now on everybody is well."""
        self.moods = dict.fromkeys(self.moods, "well")

    def _begin(self, request: web.Request) -> None:
        self._spring("head", self._sender(request))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._receiver.requests.clear()
        name, sender = request.path[1:], self._sender(request)
        entry = self._enter(name, sender, request, await request.read())
        self._spring("body", sender)
        status = await self._decide(self.moods[name], request)
        transport = request.transport
        if transport is None or transport.is_closing():
            return web.Response()
        entry.status, entry.answered_at = status, monotonic()
        # By the second that it was signed for: however long it has lain about here.
        entry.late = time() - entry.stamp > self._timeout - 0.5
        response = web.Response(status=status)
        await response.prepare(request)
        await response.write_eof()
        self._spring("answered", sender)
        return response

    def _sender(self, request: web.Request) -> int:
        return int(request.headers[SENDER])

    def _enter(self, name: str, sender: int, request: web.Request, body: bytes) -> Request:
        headers = request.headers
        identity, stamp = headers["webhook-id"], headers["webhook-timestamp"]
        signed = sign(self.keys[name], f"{identity}.{stamp}.".encode() + body)
        verified = headers["webhook-signature"] == f"v1,{signed}" and headers["X-BIS-Signature"] == sign(self.keys[name], body)
        pair = (self.names[name], int(identity.removeprefix("evt_")))
        digest = hashlib.sha256(body).hexdigest()
        entry = Request(pair, digest, verified, int(headers["X-BIS-Attempt"]), int(stamp), monotonic(), sender)
        self._ledger.requests.append(entry)
        return entry

    async def _decide(self, mood: str, request: web.Request) -> int:
        """The status; or it is never seen."""
        match mood:
            case "slow":
                await asyncio.sleep(self._rng.uniform(0.02, 0.3))
            case "flaky" if self._rng.random() < 0.2:
                return 500
            case "hanging":
                await asyncio.sleep(self._timeout + 1)
            case "resetting" if request.transport is not None:
                request.transport.abort()
            case "babbling" if request.transport is not None:
                request.transport.write(b"\x00\xff tea\r\n" * 100)
                request.transport.close()
            case "flooding" if request.transport is not None:
                request.transport.write(b"HTTP/1.1 200 OK\r\n" + b"X-Tea: tea\r\n" * 50_000)
                request.transport.close()
            case "failing":
                return 503
        return 200

    def _spring(self, stage: str, sender: int) -> None:
        for ambush in [ambush for ambush in self.ambushes if (ambush.stage, ambush.pid) == (stage, sender)]:
            ambush.passes -= 1
            if ambush.passes <= 0:
                self.ambushes.remove(ambush)
                os.kill(ambush.pid, signal.SIGKILL)
