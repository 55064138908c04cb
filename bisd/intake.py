"""Intake: one session that listens, owns shards, looks, and fills the lanes.

Everything here happens one after the other on one connection: the lanes' horizons rest on that (a look is applied before a
refill begins, and the other way round), and with the connection goes the right to send. When it is lost the lanes are closed,
and the next session begins anew: listen, look, take shards, read what is owed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from time import monotonic

import asyncpg

from bisd import db, log
from bisd.clock import Clock, ticks
from bisd.delivery.arrival import Arrival, Arrivals, Cadence
from bisd.delivery.lane import BEGINNING, END
from bisd.delivery.writeback import Writeback
from bisd.errors import KeyUnreadableError
from bisd.fleet import UNREAD, Fleet, is_sure, mask
from bisd.keyring import Keyring
from bisd.lanes import Lanes
from bisd.metrics import Metrics
from bisd.model import SHARDS, Delivery, Members, Standing, Webhook, shard_of

# A little less than two sweeps, so that it is every second one that counts.
_TEND_EVERY = 1.9
# While a shard is to be let go, or opened, and has to wait.
_SHIFT_EVERY = 0.2
# A slow receiver keeps its shard here for no longer.
_PATIENCE = 30.0
# The last that is said to the database takes no longer.
_GOODBYE = 2.0
# After a look, so many times what it took, but no longer than the sweep would: a bell shall delay nothing.
_REST = 3.0
_LONGEST_REST = 1.0
_BEAT_EVERY = 30.0
_REFILL_ROWS = 1000
_OPEN_AT_ONCE = 500
# Where the bell rings: what has arrived is to be looked for, or, if it says so, the fleet has changed.
_CHANNEL = "bisd"
_FLEET = "fleet"
_STANDING = len(Standing._fields)


class Intake:
    """Keeps a session going for as long as it runs. `wake` is called when lanes may have something to send, `ring` when other
    members should count the fleet again."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[db.Connection]],
        keyring: Keyring,
        lanes: Lanes,
        clock: Clock,
        wake: Callable[[], None],
        writeback: Writeback,
        metrics: Metrics,
        ring: Callable[[], None],
    ) -> None:
        self.ready = asyncio.Event()
        self._connect = connect
        self._keyring = keyring
        self._lanes = lanes
        self._clock = clock
        self._wake = wake
        self._writeback = writeback
        self._metrics = metrics
        self._ring = ring
        self._session: Session | None = None
        self._leaving = asyncio.Event()
        self._stir = asyncio.Event()
        self._turned_at = monotonic()
        self.trouble = db.Trouble("intake")
        self._log = log.get()

    @property
    def fleet(self) -> Fleet | None:
        """How the fleet is, and which part of it is ours; None without a session."""
        return None if self._session is None else self._session.fleet

    def still(self) -> float:
        """For how many seconds it has done nothing, not even failed."""
        return monotonic() - self._turned_at

    def refill(self) -> None:
        """A lane is hungry: there is no need to wait for the bell."""
        self._stir.set()

    def leave(self) -> None:
        """Nothing more is sent: each shard is somebody else's as soon as nothing of it is busy."""
        self._leaving.set()
        self._stir.set()

    async def run(self) -> None:
        """Outlives the database; until cancelled."""
        async for attempt in db.outliving(self._lose, db.ANY):
            with attempt:
                await self._serve()

    async def _serve(self) -> None:
        connection = await self._connect()
        session = self._session = Session(
            connection, self._keyring, self._lanes, self._clock, self._turn, self._writeback, self._stir, self._leaving,
            self._metrics, self._ring,
        )  # fmt: skip
        try:
            await session.begin()
            if self.trouble.end():
                self._log.info(log.Event.DATABASE_BACK)
            self.ready.set()
            self._ring()
            await session.run()
        except asyncio.CancelledError:
            await session.part()
            raise
        finally:
            self.ready.clear()
            self._session = None
            self._lanes.close(range(SHARDS), lost=True)
            self._writeback.forget(range(SHARDS))
            connection.terminate()

    def _turn(self) -> None:
        self._turned_at = monotonic()
        self._wake()

    def _lose(self, fault: BaseException) -> None:
        self._turned_at = monotonic()
        self.trouble.begin(fault)


class Session:
    """One connection's life."""

    def __init__(
        self,
        connection: db.Connection,
        keyring: Keyring,
        lanes: Lanes,
        clock: Clock,
        wake: Callable[[], None],
        writeback: Writeback,
        stir: asyncio.Event,
        leaving: asyncio.Event,
        metrics: Metrics,
        ring: Callable[[], None],
    ) -> None:
        self.fleet = Fleet(connection)
        self._connection = connection
        self._keyring = keyring
        self._lanes = lanes
        self._wake = wake
        self._writeback = writeback
        self._stir = stir
        self._leaving = leaving
        self._metrics = metrics
        self._ring = ring
        self._clock = clock
        self._arrival = Arrival(connection, self._hear)
        self._cadence = Cadence()
        self._open: frozenset[int] = frozenset()
        self._surplus: frozenset[int] = frozenset()
        self._tend_at = self._beat_at = self._look_at = self._rested_at = 0.0
        self._shift_at = float("inf")
        self._patient_until = 0.0
        self._rung = self._recount = False
        self._log = log.get()

    async def begin(self) -> None:
        """LISTEN first, then the first snapshot, then the shards and what they owe: nothing falls between."""
        self._connection.add_termination_listener(self._end)
        await self._connection.add_listener(_CHANNEL, self._heard)
        restamped = await self._connection.fetchval(db.query("restamp"))
        if restamped:
            self._log.warning(log.Event.RESTAMPED, count=restamped)
        await self._arrival.begin()
        await self.fleet.join()
        if self._leaving.is_set():
            await self._leave()
        await self._look()

    async def run(self) -> None:
        while True:
            if self._leaving.is_set() and not self.fleet.left:
                await self._leave()
            if monotonic() >= self._look_at:
                await self._look()
            if monotonic() >= self._shift_at:
                await self._shift()
            await self._refill()
            self._wake()
            if not self._lanes.starving:
                await self._pause()

    async def part(self) -> None:
        """Nothing is busy any more, and the daemon ends: others may have the rest."""
        with suppress(*db.ANY):
            async with asyncio.timeout(_GOODBYE):
                await self.fleet.leave()
                await self.fleet.release(self.fleet.held)
                await self._connection.close()

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """What it answers; as good a sign as a look that the session, and what we hold, is still ours: a slow database takes
        seconds from one look to the next."""
        asked_at = ticks()
        rows = await self._connection.fetch(query, *arguments)
        sure = is_sure(self._clock)
        self._clock.answered(asked_at)
        if not sure:
            self._wake()
        return rows

    def _hear(self, database_now: datetime, asked_at: float) -> None:
        """Whoever waits for us to be sure again need not wait for what this look found to be dealt with."""
        sure = is_sure(self._clock)
        self._clock.hear(database_now, asked_at)
        if not sure:
            self._wake()

    def _heard(self, _connection: object, _pid: int, _channel: str, says: object) -> None:
        self._metrics.bells += 1
        self._recount = self._recount or says == _FLEET
        self._cadence.rung(monotonic())
        self._rung = True
        self._look_at = self._rested_at
        self._stir.set()

    def _end(self, *_: object) -> None:
        """The server has ended the session: somebody else may have our shards now, so this is found out at once."""
        self._look_at = 0.0
        self._stir.set()

    async def _pause(self) -> None:
        """Until the bell, a hungry lane, or the next look."""
        try:
            async with asyncio.timeout(max(0.0, min(self._look_at, self._shift_at) - monotonic())):
                await self._stir.wait()
        except TimeoutError:
            pass
        self._stir.clear()

    async def _tend(self, members: Members) -> None:
        """Takes shards up to our share, and says which are beyond it."""
        await self._beat()
        tending = await self.fleet.tend(members)
        self._surplus = tending.surplus
        if taken := len(tending.taken):
            self._log.info(log.Event.SHARDS_TAKEN, count=taken, held=len(self.fleet.held), members=self.fleet.members)
        await self._shift()

    async def _leave(self) -> None:
        await self.fleet.leave()
        self._surplus = self.fleet.held
        await self._shift()

    async def _shift(self) -> None:
        """Opens what is ours. Closes what is beyond our share, but not while a slow receiver would keep the others of its shard
        waiting, even if that shows only when it is closed; and lets it go when nothing is busy there, and the database has been
        told how its webhooks are doing: whoever opens it takes that for the newest, and so do we."""
        waiting = self._lanes.hold_back(self._surplus, self._clock.now())
        if not self._surplus:
            self._patient_until = monotonic() + _PATIENCE
        patient = not self.fleet.left and monotonic() < self._patient_until
        closing = self._surplus - waiting if patient else self._surplus
        opening = self.fleet.held - closing - self._open - self._untold()
        self._writeback.forget(opening)
        self._lanes.lose(opening)
        await self._open_shards(opening)
        self._open = (self._open | opening) - closing
        for report in self._lanes.untold(closing):
            self._writeback.report(report)
        going = closing - self._lanes.close(closing) - self._untold() if closing else closing
        if going:
            self._writeback.forget(going)
            await self.fleet.release(going)
            self._ring()
            self._surplus -= going
            self._log.info(log.Event.SHARDS_RELEASED, count=len(going), held=len(self.fleet.held), members=self.fleet.members)
        self._shift_at = monotonic() + _SHIFT_EVERY if self._surplus or self._open != self.fleet.held else float("inf")

    def _untold(self) -> set[int]:
        """The shards with a webhook of which the database is still to be told how it is doing."""
        return {shard_of(webhook_id) for webhook_id in self._writeback.telling}

    async def _beat(self) -> None:
        """Now and then, and before the first webhook is read: what it failed to take while no daemon ran does not count."""
        if monotonic() >= self._beat_at:
            self._beat_at = monotonic() + _BEAT_EVERY
            silence = await self._connection.fetchval(db.query("beat"))
            if silence:
                self._log.warning(log.Event.SILENCE, seconds=round(silence))

    async def _open_shards(self, shards: Iterable[int]) -> None:
        """Lanes for what these shards owe. From here on a webhook without a lane owes nothing but what arrives. The first
        of many need not wait for the last."""
        if shards:
            owing = [row["webhook_id"] for row in await self._fetch(db.query("owing"), mask(shards))]
            for ids in (owing[at : at + _OPEN_AT_ONCE] for at in range(0, len(owing), _OPEN_AT_ONCE)):
                if self._leaving.is_set():
                    break
                for webhook in await self._webhooks(ids):
                    self._lanes.put(webhook, BEGINNING)
                await self._refill()
                self._wake()
            await self._test_owed(mask(shards))

    async def _look(self) -> None:
        """And says when to look again. A bell that was heard meanwhile asks for another look, because the snapshot of this one
        may be older; but looking shall not take more than a part of anybody's time, however much it rings. Now and then it
        counts the fleet too."""
        self._rung = False
        began = monotonic()
        self._lanes.begin_read()
        due = began >= self._tend_at
        tending, self._recount = due or self._recount, False
        if due:  # whoever comes and goes all the time, and rings, does not put off the count that finds him gone
            self._tend_at = began + _TEND_EVERY
        arrivals = await self._arrival.look(mask(self._open), UNREAD if tending else None)
        now = monotonic()
        self._metrics.looked(now - began, len(arrivals.deliveries) + len(arrivals.tests))
        self._rested_at = now + min(_REST * (now - began), _LONGEST_REST)
        self._look_at = self._rested_at if self._rung else now + self._cadence.wait(self._arrival.snapshot, began, now)
        await self._open_lanes(arrivals)
        self._lanes.arrive(arrivals.deliveries)
        await self._test(arrivals.tests)
        if arrivals.overflowed or arrivals.changed:
            await self._test_owed(mask(self._open))
        for webhook_id, due_at in arrivals.overflowed.items():
            self._lanes.reread(webhook_id, due_at)
        if arrivals.members is not None:
            await self._tend(arrivals.members)

    async def _open_lanes(self, arrivals: Arrivals) -> None:
        """Lanes for webhooks that have none yet, and news for those that were changed."""
        changed = set(arrivals.changed)
        arrived = {delivery.webhook_id for delivery in arrivals.deliveries} | arrivals.overflowed.keys()
        wanted = changed | {webhook_id for webhook_id in arrived if not self._lanes.known(webhook_id)}
        if wanted:
            for webhook in await self._webhooks(list(wanted)):
                self._lanes.put(webhook, BEGINNING if webhook.id in changed else END)

    async def _test_owed(self, shards: int) -> None:
        """The tests that the table holds."""
        self._lanes.begin_read()
        await self._test([Delivery(*row) for row in await self._fetch(db.query("tests"), shards)])

    async def _test(self, tests: list[Delivery]) -> None:
        if tests:
            webhooks = {webhook.id: webhook for webhook in await self._webhooks([test.webhook_id for test in tests])}
            for test in tests:
                webhook = webhooks.get(test.webhook_id)
                if webhook is not None and webhook.api_key:
                    self._lanes.test(webhook, test)

    async def _refill(self) -> None:
        asked = self._lanes.hungry(_REFILL_ROWS)
        if not asked:
            return
        self._lanes.begin_read()
        rows = await self._fetch(
            db.query("refill"),
            [lane.webhook.id for lane, _ in asked],
            [lane.horizon[0] for lane, _ in asked],
            [lane.horizon[1] for lane, _ in asked],
            [room for _, room in asked],
            self._lanes.window.octets,
            [lane.webhook.ordered for lane, _ in asked],
        )
        self._lanes.refill(asked, [Delivery(*row) for row in rows])

    async def _webhooks(self, ids: list[int]) -> list[Webhook]:
        return [self._webhook(row) for row in await self._fetch(db.query("webhooks"), ids)] if ids else []

    def _webhook(self, row: asyncpg.Record) -> Webhook:
        """A row of queries/webhooks.sql, its keys opened. What no key can sign is held, and nobody's failure."""
        *own, headers, resumed_at, recovered_at, sent_at = row[:-_STANDING]
        standing = Standing._make(row[-_STANDING:])
        webhook = Webhook._make([*own, headers and json.loads(headers), resumed_at, recovered_at, sent_at, standing])
        api_key = self._unsealed(webhook, webhook.api_key)
        previous = webhook.previous_api_key and self._unsealed(webhook, webhook.previous_api_key)
        if api_key is None:
            return webhook._replace(live=False, api_key="", previous_api_key=None)
        return webhook._replace(api_key=api_key, previous_api_key=previous)

    def _unsealed(self, webhook: Webhook, stored: str) -> str | None:
        try:
            return self._keyring.open(webhook.account_id, stored)
        except KeyUnreadableError:
            self._log.error(log.Event.KEY_UNREADABLE, account_id=webhook.account_id, webhook_id=webhook.id)
            return None
