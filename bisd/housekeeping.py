"""Housekeeping: partitions of the coming days are made ahead, those past retention dropped whole; the schema is looked at; keys
are sealed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from bisd import blueprint, db, log
from bisd.config import RetentionConfig
from bisd.keyring import Keyring
from bisd.sealing import seal_accounts
from bisd.sessions import Sessions

_EVERY = 3600.0
_AGAIN = 60.0
# What the default partition took while no daemon ran may be much.
_PATIENCE = 600
_SEAL_EVERY = 60.0
_DAYS_AHEAD = 7
# For so long the same Idempotency-Key is answered the same.
ANSWERS_KEPT = timedelta(days=1)
# So much of what has drifted is named in the log; `bisd check` names all.
_LISTED = 10


class Housekeeping:
    def __init__(self, sessions: Sessions, retention: RetentionConfig, keyring: Keyring) -> None:
        self._sessions = sessions
        self._retention = retention
        self._keyring = keyring
        self._stir = asyncio.Event()
        self._log = log.get()

    def change(self, retention: RetentionConfig) -> None:
        """From now on, and at once, so much is kept."""
        if retention != self._retention:
            self._retention = retention
            self._stir.set()

    async def run(self) -> None:
        """Once an hour, until cancelled. What a busy table or a lost database prevents is tried again a minute later; meanwhile
        the default partition takes what has none of its own."""
        while True:
            self._stir.clear()
            try:
                await self._keep()
                wait = _EVERY
            except db.ANY as fault:
                self._log.warning(log.Event.HOUSEKEEPING_PUT_OFF, error=type(fault).__name__)
                wait = _AGAIN
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stir.wait()

    async def seal(self) -> None:
        """Once a minute, until cancelled: SQL that makes or rotates a key has no master key to seal it with."""
        while self._keyring.has_master:
            try:
                await self._seal()
            except db.ANY as fault:
                self._log.warning(log.Event.HOUSEKEEPING_PUT_OFF, error=type(fault).__name__)
            await asyncio.sleep(_SEAL_EVERY)

    async def _seal(self) -> None:
        async with self._sessions.borrow() as connection:
            sealing = await seal_accounts(connection, self._keyring, rewrap=False)
            if sealing.keys:
                self._log.info(log.Event.KEYS_SEALED, count=sealing.keys)

    async def _keep(self) -> None:
        async with self._sessions.borrow(within=_PATIENCE) as connection:
            made = await connection.fetchval(db.query("make_partitions"), _DAYS_AHEAD, timeout=_PATIENCE)
            if made:
                self._log.info(log.Event.PARTITIONS_MADE, count=made)
            for table, age in (("event", self._retention.events), ("attempt", self._retention.attempts)):
                dropped = [row[0] for row in await connection.fetch(db.query("drop_partitions"), table, age)]
                if dropped:
                    self._log.info(log.Event.PARTITIONS_DROPPED, names=dropped)
            await connection.execute(db.query("forget"), self._retention.attempts, ANSWERS_KEPT)
            # Not before the start: this reads definitions, and waits for whoever holds a lock on what they speak of.
            if drifted := [f"{thing.kind} {thing.name}" for thing in await blueprint.drifted(connection)]:
                self._log.warning(log.Event.SCHEMA_DRIFTED, count=len(drifted), things=drifted[:_LISTED])
