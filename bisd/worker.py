"""The story of a delivery, and the workers that live it.

A worker carries one delivery at a time from its lane to the write-back and then asks for the next. There are as many as there
is something to send, up to `max_in_flight`; they stay for the next delivery rather than being made for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from bisd import log
from bisd.clock import Clock
from bisd.delivery.message import compose
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.delivery.writeback import Writeback
from bisd.fleet import is_sure
from bisd.lanes import Lanes, Turn
from bisd.model import (
    Answer,
    Code,
    Delivery,
    Expired,
    Fault,
    NoResponse,
    Outcome,
    Refusal,
    Response,
    Took,
    Verdict,
)

if TYPE_CHECKING:
    from bisd.traces import Traces

_IDLE_WORKERS = 64
_SHOWN = 16 << 10


class Worker:
    """message, post, verdict, writeback."""

    def __init__(
        self, lanes: Lanes, post: Post, policy: Policy, writeback: Writeback, clock: Clock, traces: Traces | None = None
    ) -> None:
        self._lanes = lanes
        self.post = post
        self._policy = policy
        self.writeback = writeback
        self._clock = clock
        self._payloads = False
        self._traces = traces
        self._log = log.get()

    def change(self, post: Post, policy: Policy, payloads: bool) -> None:
        """From the next attempt on these serve; what is under way ends by its own `post`. `payloads`: whether bodies and
        answers are logged."""
        self.post = post
        self._policy = policy
        self._payloads = payloads

    async def deliver(self, turn: Turn) -> None:
        """One attempt, and all that follows from it."""
        webhook, delivery, began = turn
        answer: Answer | None = None
        verdict: Verdict = Expired()
        ended = began
        span = None
        if not self._policy.lapsed(webhook, delivery, began):
            try:
                answer = self._policy.refusal(delivery)
                if answer is None:
                    message = compose(webhook, delivery, began)
                    if self._traces is not None:
                        span = self._traces.begin(message, delivery)
                    answer = await self.post.send(message)
            except Exception as fault:  # the boundary: a fault of ours puts this delivery off, and never ends the daemon
                self._log.error(log.Event.INTERNAL_FAULT, error=type(fault).__name__, where=log.place(fault))
                answer = Fault(Code.INTERNAL)
            ended = self._clock.now()
            verdict = self._policy.judge(webhook, delivery, answer, ended)
            if span is not None:
                span.end(answer, verdict)
            if self._payloads:
                self._show(delivery, answer)
        self.writeback.add(Outcome(delivery, began, answer, verdict))
        took = self._policy.took(answer)
        if took is Took.NO and not is_sure(self._clock):
            took = Took.OURS  # its time passed while we did nothing, or its shard is another's: who owns that may judge
        if took is not Took.YES or not self._lanes.outage.quiet:
            self._watch(took, ended, answer)
        # What we know of the database's clock may go back by as much as an answer of it was late.
        seconds = max(0.0, (ended - began).total_seconds())
        report = self._lanes.finish(delivery, took, ended, _error(answer), seconds)
        if report is not None:
            self.writeback.report(report)
        if took is not Took.YES and took is not Took.OURS:
            self._tell(delivery, answer, verdict)

    def _watch(self, took: Took, now: datetime, answer: Answer | None) -> None:
        """Whether it is us. One line when all lanes begin to wait, however many attempts fail, and one when they go on."""
        outage = self._lanes.outage
        if isinstance(answer, Fault) and answer.code is not Code.INTERNAL:
            pause = outage.fault(now)
            if pause is not None:
                self._log.warning(log.Event.OUTAGE, code=_error(answer), seconds=pause.total_seconds())
        elif took is Took.UNKNOWN or took is Took.OURS:
            outage.spare()
        else:
            lasted = outage.passed(now)
            if lasted is not None:
                self._lanes.forgive(lasted, now)
                self._log.info(log.Event.OUTAGE_OVER, seconds=round(lasted.total_seconds(), 3))

    def _show(self, delivery: Delivery, answer: Answer) -> None:
        self._log.debug(
            log.Event.PAYLOAD,
            webhook_id=delivery.webhook_id,
            event_id=delivery.event_id,
            body=_text(delivery.body),
            answer=_text(answer.body) if isinstance(answer, Response) else None,
        )

    def _tell(self, delivery: Delivery, answer: Answer | None, verdict: Verdict) -> None:
        self._log.info(
            log.Event.ATTEMPT_FAILED,
            webhook_id=delivery.webhook_id,
            event_id=delivery.event_id,
            number=delivery.attempts + 1 if isinstance(answer, Response | NoResponse) else None,
            verdict=verdict.word,
            status=answer.status if isinstance(answer, Response) else None,
            code=None if answer is None or isinstance(answer, Response) else answer.code,
        )


def _error(answer: Answer | None) -> str:
    """In a word: the status, or the code."""
    match answer:
        case Response(status=status):
            return f"status {status}"
        case NoResponse(code=code) | Refusal(code=code) | Fault(code=code):
            return code.value
        case None:
            return ""
        case _:
            assert_never(answer)


def _text(octets: bytes) -> str:
    """As much of it as a line of journald holds."""
    return octets[:_SHOWN].decode("utf-8", "replace")


def hear(lanes: Lanes, outcomes: Iterable[Outcome], fenced: Container[tuple[int, int]]) -> None:
    """Tells the lanes what is in the database: these outcomes, but for the deliveries (webhook id, event id) that the fence
    kept as they were. Those are read again, as whoever has dealt with them left them."""
    for outcome in outcomes:
        delivery = outcome.delivery
        if (delivery.webhook_id, delivery.event_id) in fenced:
            lanes.written(delivery, None)
            # A replay may be owed from a later time on than it was made due.
            lanes.reread(delivery.webhook_id, min(delivery.owed_since, delivery.due_at))
        else:
            lanes.written(delivery, outcome.owed())


class Workers:
    """As many workers as there is something to send. `refill` is called when a lane runs low."""

    def __init__(
        self, worker: Worker, lanes: Lanes, clock: Clock, group: asyncio.TaskGroup, most: int, refill: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._lanes = lanes
        self._clock = clock
        self._group = group
        self.most = most
        self._refill = refill
        self._idle: list[asyncio.Future[Turn | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def change(self, most: int) -> None:
        """From now on so many at most; those that are more end with what they carry."""
        self.most = most
        self._dismiss()
        self.wake()

    def wake(self) -> None:
        """Sets workers to whatever can be sent now, and a timer for what can be sent next."""
        while not self._stopping and (self._idle or len(self._tasks) < self.most):
            turn = self._next()
            if turn is None:
                self._set_timer()
                return
            if self._idle:
                self._idle.pop().set_result(turn)
            else:
                task = self._group.create_task(self._work(turn))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def stop(self, patience: float) -> None:
        """Takes no more; lets what is in flight end for `patience` seconds, then cuts it short, which counts for nothing."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        self._dismiss()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _dismiss(self) -> None:
        for idle in self._idle:
            idle.set_result(None)
        self._idle.clear()

    def cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    def __len__(self) -> int:
        """How many workers have something in flight."""
        return len(self._tasks) - len(self._idle)

    @property
    def idle(self) -> int:
        """How many wait for something to send."""
        return len(self._idle)

    async def _work(self, turn: Turn | None) -> None:
        while turn is not None:
            await self._worker.deliver(turn)
            turn = None if len(self._tasks) > self.most else self._next() or await self._wait()

    def _next(self) -> Turn | None:
        turn = None if self._stopping or not self._may_send() else self._lanes.next(self._clock.now())
        if self._lanes.starving:
            self._refill()
        return turn

    def _may_send(self) -> bool:
        """Not what may be somebody else's, nor more than can be written down."""
        return not self._worker.writeback.full and is_sure(self._clock)

    async def _wait(self) -> Turn | None:
        """The next turn, when there is one; None to end: enough others wait already."""
        if self._stopping or len(self._idle) >= _IDLE_WORKERS:
            return None
        self._set_timer()
        idle: asyncio.Future[Turn | None] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        return await idle

    def _set_timer(self) -> None:
        # While we may not, the database's next answer wakes us.
        due = self._lanes.due() if self._may_send() else None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            wait = max(0.0, (due - self._clock.now()).total_seconds())
            self._timer = asyncio.get_running_loop().call_later(min(wait, 3600.0), self.wake)
