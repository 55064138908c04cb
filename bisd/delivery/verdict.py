"""Verdict: what an answer means for the delivery. Pure, total over every answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import assert_never

from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_chain, wait_exponential, wait_fixed
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from bisd.config import DeliveryConfig, RetryConfig
from bisd.model import (
    Answer,
    Code,
    Delivered,
    Delivery,
    Expired,
    Fault,
    GaveUp,
    NoResponse,
    Postponed,
    Refusal,
    Refused,
    Response,
    Retry,
    Took,
    Verdict,
    Webhook,
)

# Our clock is the database's as it was heard a moment ago: nobody who asked for time is to be asked early.
_MARGIN = timedelta(milliseconds=100)
# After a fault of ours: soon enough when it passes, seldom enough while it lasts.
_POSTPONED = timedelta(seconds=30)


class wait_spread(wait_base):  # noqa: N801  (named as tenacity names its strategies)
    """Waits as another strategy says, and up to `jitter` (a share of it) longer, so that what failed together returns apart."""

    def __init__(self, wait: wait_base, jitter: float, chance: Callable[[], float] = random.random) -> None:
        self._wait = wait
        self._jitter = jitter
        self._chance = chance

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._wait(retry_state) * (1 + self._jitter * self._chance())


def wait_strategy(config: RetryConfig, chance: Callable[[], float] = random.random) -> wait_base:
    """How long to wait after a failed attempt."""
    wait: wait_base
    if config.base is not None:
        wait = wait_exponential(multiplier=config.base.total_seconds(), exp_base=config.factor, max=config.max)
    else:
        wait = wait_chain(*(wait_fixed(step) for step in config.schedule))
    return wait_spread(wait, config.jitter, chance)


class Policy:
    """The configuration's idea of success, schedule and lifetime."""

    def __init__(self, delivery: DeliveryConfig, retry: RetryConfig, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._success = frozenset(delivery.success)
        self._expires_after = delivery.expires_after
        self._max_body_bytes = delivery.max_body_bytes
        self._max_retry_after = retry.max_retry_after
        self._wait = wait_strategy(retry, chance)
        self._stop: stop_base = stop_after_attempt(retry.max_attempts)
        self._retrying = Retrying()

    def lapsed(self, webhook: Webhook, delivery: Delivery, now: datetime) -> bool:
        """Whether the delivery has outlived its time before it could be sent. What was held has its time anew from when its
        webhook was switched on."""
        since = delivery.owed_since
        if webhook.resumed_at is not None and webhook.resumed_at > since:
            since = webhook.resumed_at
        return now >= since + self._expires_after

    def refusal(self, delivery: Delivery) -> Refusal | None:
        """Why it cannot be sent at all, wherever it goes; None if it can be."""
        if delivery.size > self._max_body_bytes or len(delivery.body) > self._max_body_bytes:
            return Refusal(Code.BODY_TOO_BIG)
        return None if delivery.body else Refusal(Code.EVENT_GONE)

    def judge(self, webhook: Webhook, delivery: Delivery, answer: Answer, now: datetime) -> Verdict:
        """The verdict on an attempt that ended at `now` with `answer`."""
        match answer:
            case Response(status=status) if status in self._success:
                return Delivered()
            case Response(retry_after=retry_after):
                return self._again(webhook, delivery, retry_after, now)
            case NoResponse():
                return self._again(webhook, delivery, None, now)
            case Refusal():
                return Refused()
            case Fault():
                return self._postpone(webhook, delivery, now)
            case _:
                assert_never(answer)

    def took(self, answer: Answer | None) -> Took:
        """What the answer says of the receiver. What we refuse, and what we could not do, says nothing."""
        match answer:
            case Response(status=status) if status in self._success:
                return Took.YES
            case Response(status=HTTPStatus.GONE):
                return Took.GONE
            case Response() | NoResponse():
                return Took.NO
            case Refusal() | None:
                return Took.UNKNOWN
            case Fault():
                return Took.OURS
            case _:
                assert_never(answer)

    def _postpone(self, webhook: Webhook, delivery: Delivery, now: datetime) -> Verdict:
        if delivery.test:
            return GaveUp()
        due_at = now + _POSTPONED * (1 + self._chance())
        return Expired() if self.lapsed(webhook, delivery, due_at) else Postponed(due_at)

    def _again(self, webhook: Webhook, delivery: Delivery, retry_after: str | None, now: datetime) -> Verdict:
        state = RetryCallState(self._retrying, None, (), {})
        state.attempt_number = delivery.attempts + 1
        if delivery.test or self._stop(state):
            return GaveUp()
        wait = timedelta(seconds=self._wait(state))
        asked = parse_retry_after(retry_after, now) if retry_after is not None else None
        if asked is not None:
            wait = max(wait, min(asked, self._max_retry_after) + _MARGIN)
        if self.lapsed(webhook, delivery, now + wait):
            return Expired()
        return Retry(now + wait)


def parse_retry_after(text: str, now: datetime) -> timedelta | None:
    """RFC 9110, 10.2.3: seconds, or a date. None for what is neither, or lies in the past; at most ten years."""
    text = text.strip()
    longest = timedelta(days=3650)
    if re.fullmatch(r"[0-9]{1,100}", text):
        return min(timedelta(seconds=min(int(text), int(longest.total_seconds()))), longest)
    try:
        wait = parsedate_to_datetime(text) - now
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return None
    return min(wait, longest) if wait > timedelta(0) else None
