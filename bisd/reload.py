"""Reload: a running daemon follows its configuration, as far as it can without dropping anything.

What is in flight ends by the client that began it; the next attempt goes by the new one. What a session or a socket was opened
by stays as it is until the next start, and is named. A configuration with a fault changes nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta

from bisd import log, systemd
from bisd.config import Config
from bisd.delivery.post import Post
from bisd.delivery.verdict import Policy
from bisd.errors import ConfigurationError
from bisd.health import Limits
from bisd.housekeeping import Housekeeping
from bisd.lanes import Lanes
from bisd.worker import Worker, Workers

# Sections that are fixed while the daemon runs.
_FIXED = ("database", "keys", "http")
# Seconds from one to the next, however often it is asked for: the authorities of the whole web are read at each.
_REST = 1.0
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the daemon goes by the configuration."""

    lanes: Lanes
    worker: Worker
    workers: Workers
    housekeeping: Housekeeping


class Reload:
    """`reread` gives the configuration as it is now, or raises ConfigurationError; it may take its time. `asked` is set by who
    wants a reload: asked for a hundred times while one is under way or has just been, it is done once more. `faults`: why the
    last one was refused; empty if it was not. `told` hears of each whether its configuration is in force."""

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config],
        asked: asyncio.Event,
        parts: Parts,
        group: asyncio.TaskGroup,
        told: Callable[[bool], None],
    ) -> None:
        self.config = config
        self.faults: list[str] = []
        self._reread = reread
        self._asked = asked
        self._parts = parts
        self._group = group
        self._told = told
        self._retiring: set[Post] = set()
        self._log = log.get()

    @property
    def patience(self) -> timedelta:
        """The longest that an attempt which is under way may take."""
        return max(post.timeout for post in (self._parts.worker.post, *self._retiring))

    @property
    def verdict(self) -> str:
        """In a few words, why the last one was refused."""
        others = f" (and {len(self.faults) - 1} more)" if self.faults[1:] else ""
        return f"configuration refused, the one before it serves: {self.faults[0][:_MOST_SHOWN]}{others}" if self.faults else ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            systemd.reloading()
            await self._reload()
            systemd.notify("READY=1")
            await asyncio.sleep(_REST)

    async def _reload(self) -> None:
        try:
            config = await asyncio.to_thread(self._reread)
            post = await Post(config.delivery, config.egress).open()
        except ConfigurationError as fault:
            self._end(fault.faults)
        except (OSError, ValueError) as fault:
            self._end([f"what it names changed while it was read, or there are no descriptors left: {type(fault).__name__}"])
        else:
            self._follow(config, post)
            self._end([])

    def _end(self, faults: list[str]) -> None:
        """What came of it, whichever way it went."""
        self.faults = faults
        self._told(not faults)
        if faults:
            self._log.error(log.Event.RELOAD_REFUSED, faults=faults)
            systemd.notify(f"STATUS={self.verdict}")

    def _follow(self, config: Config, post: Post) -> None:
        changed = list(_differences(self.config, config))
        fixed = [key for key in changed if key.partition(".")[0] in _FIXED]
        config = replace(config, **{section: getattr(self.config, section) for section in _FIXED})
        if config.log != self.config.log:
            log.configure(config.log.level, config.log.format)
        self.config = config
        retiring = self._parts.worker.post
        apply(config, post, self._parts)
        self._retiring.add(retiring)
        self._group.create_task(self._retire(retiring), name="retire")
        if fixed:
            self._log.warning(log.Event.CONFIGURATION_UNCHANGED, keys=fixed)
        self._log.info(log.Event.RELOADED, changed=[key for key in changed if key not in fixed])

    async def _retire(self, post: Post) -> None:
        await post.retire()
        self._retiring.discard(post)


def limits(config: Config) -> Limits:
    return Limits(config.deactivation.failing_for, config.deactivation.min_attempts)


def apply(config: Config, post: Post, parts: Parts) -> None:
    """Everything that may change goes by `config` and `post` from now on."""
    delivery = config.delivery
    payloads = config.log.payloads and config.log.level == "debug"
    parts.worker.change(post, Policy(delivery, config.retry), payloads)
    parts.lanes.limit(delivery.max_in_flight_per_webhook, limits(config), delivery.max_in_flight)
    parts.workers.change(delivery.max_in_flight)
    parts.housekeeping.change(config.retention)


def _differences(old: Config, new: Config) -> Iterator[str]:
    """The keys that are not as they were."""
    for section in fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        for key in fields(before):
            if getattr(before, key.name) != getattr(after, key.name):
                yield f"{section.name}.{key.name}"
