"""The receivers: what each answers, and after how many seconds, as long as it is of this sort."""

from __future__ import annotations

import random
from typing import NamedTuple

from bisd.model import Answer, Code, Fault, NoResponse, Refusal, Response, Timings

_NO_TIMINGS = Timings(None, None, None, None, 1.0)
SORTS = ("good", "slow", "flaky", "failing", "hanging", "dead", "gone", "busy", "picky", "refused", "creeping")


class Reply(NamedTuple):
    seconds: float
    answer: Answer


class Receivers:
    """`sorts` by webhook id. `unreachable`: the daemons themselves have no network."""

    def __init__(self, chance: random.Random, timeout: float) -> None:
        self.sorts: dict[int, str] = {}
        self.unreachable = False
        self._chance = chance
        self._timeout = timeout

    def ask(self, webhook_id: int, event_id: int) -> Reply:
        if self.unreachable:
            return Reply(0.005, Fault(Code.NETWORK))
        seconds = min(self._timeout, self._chance.uniform(0.002, 0.05))
        match self.sorts[webhook_id]:
            case "slow":
                return self._status(self._chance.uniform(0.2, 1.2) * self._timeout, 200)
            case "creeping":
                return self._status(self._chance.choice((0.02, 2.5, 4.0)), 200)
            case "flaky":
                return self._status(seconds, self._chance.choice((200, 500, 503)))
            case "failing":
                return self._status(seconds, 500)
            case "hanging":
                return self._status(2 * self._timeout, 200)
            case "dead":
                return Reply(0.001, NoResponse(Code.CONNECT, _NO_TIMINGS))
            case "gone":
                return self._status(seconds, 410)
            case "busy":
                busy = self._chance.random() < 0.6
                asked = self._chance.choice(("2", "9", "100000", "soon", "0"))
                return self._status(seconds, 429, asked) if busy else self._status(seconds, 200)
            case "picky":
                return self._status(seconds, 422 if event_id % 3 == 0 else 200)
            case "refused":
                return Reply(0.0, Refusal(Code.REFUSED_ADDRESS))
        return self._status(seconds, 200)

    def _status(self, seconds: float, status: int, retry_after: str | None = None) -> Reply:
        if seconds >= self._timeout:
            return Reply(self._timeout, NoResponse(Code.TIMEOUT, _NO_TIMINGS))
        return Reply(seconds, Response(status, retry_after, b"", _NO_TIMINGS))
