"""What changes all the time, in every round: merchants' moods, and what owners do with their webhooks."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from bisd import db
from tests.torture.merchants import HOSTILE
from tests.torture.world import World

_CHANGES = (
    "select bisd.disable_webhook($1)",
    "select bisd.enable_webhook($1)",
    "select bisd.enable_webhook($1)",
    "update bisd.webhook set rate = 200 where id = $1",
    "update bisd.webhook set rate = null, max_in_flight = 3 where id = $1",
    "update bisd.webhook set max_in_flight = null where id = $1",
)


async def weather(world: World, rng: random.Random) -> None:
    """Until cancelled."""
    hostile = world.webhooks["hostile0"]
    moody = [name for name in world.webhooks if name.startswith("moody")]
    switched = [id for name, id in world.webhooks.items() if name.startswith("switched")]
    while True:
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        world.merchants.moods[rng.choice(moody)] = rng.choice(world.moods)
        world.merchants.moods["hostile0"] = rng.choice(HOSTILE)
        with suppress(*db.ANY):
            connection = await world.connect()
            try:
                await connection.execute(rng.choice(_CHANGES), rng.choice(switched), timeout=5)
                if rng.random() < 0.1:
                    await connection.execute("select bisd.enable_webhook($1, 'discard')", hostile, timeout=5)
            finally:
                connection.terminate()
