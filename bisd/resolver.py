"""Names: asked without a thread and within seconds, and answered with addresses that may be reached. Whose fault it is where
there is no answer decides whether a merchant's webhook fails or all lanes wait."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

import aiodns
import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from bisd.egress import AddressRefused, Egress

# So many of each family are dialled: each is one more TCP connection and TLS handshake, at somebody's choice.
_MOST_DIALLED = 2
# What a resolver that works says of a name that does not.
_NO_SUCH_NAME = {
    aiodns.error.ARES_ENOTFOUND,
    aiodns.error.ARES_ENODATA,
    aiodns.error.ARES_ENONAME,
    aiodns.error.ARES_EBADNAME,
    aiodns.error.ARES_EFORMERR,
}
_RESOLV_CONF = Path("/etc/resolv.conf")
_RECONFIGURE_EVERY = 10.0
# Somewhere far away, which is not asked anything: is there a route that leads out?
_FAR = ((socket.AF_INET, "198.41.0.4"), (socket.AF_INET6, "2001:503:ba3e::2:30"))


class ResolverSilent(OSError):
    """No name is answered, not even another one: our resolver is at fault, or the way to it, and not the name."""


class GuardedResolver(AbstractResolver):
    """Resolves by c-ares, without a thread, in `patience` seconds. Reads its configuration again when that has changed."""

    def __init__(
        self, egress: Egress, make: Callable[[], AbstractResolver], patience: float, configuration: Path = _RESOLV_CONF
    ) -> None:
        self._egress = egress
        self._make = make
        self._inner = make()
        self._former: list[AbstractResolver] = []
        self._patience = patience
        self._configuration = configuration
        self._configured = _version(configuration)
        self._checked_at = monotonic()
        self._answered_at = self._silent_at = float("-inf")
        self._probing = asyncio.Lock()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Raises AddressRefused, ResolverSilent, or OSError where the name is at fault."""
        self._reconfigure()
        answers = await self._ask(host, port, family)
        if not answers:
            raise OSError("the name has no address")
        try:
            addresses = [ip_address(answer["host"].partition("%")[0]) for answer in answers]
        except ValueError:
            raise AddressRefused("no address at all") from None
        self._egress.vet(host, addresses)
        return _first(answers)

    async def _ask(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        began = monotonic()
        try:
            async with asyncio.timeout(self._patience):
                answers = await self._inner.resolve(host, port, family)
        except OSError as fault:
            if not _says_no(fault) and not await self._works(began):
                raise ResolverSilent("no answer to any name") from None
            raise OSError("the name cannot be resolved") from None
        self._answered_at = monotonic()
        return answers

    async def _works(self, since: float) -> bool:
        """Whether any name has been answered since then. Whose servers are silent, or failed, may be a merchant who would have
        us wait: another name is asked, one that no cache knows; once for all who want to know."""
        async with self._probing:
            if max(self._answered_at, self._silent_at) < since:
                try:
                    async with asyncio.timeout(self._patience / 2):
                        await self._inner.resolve(f"bisd-{secrets.token_hex(8)}.com", 443, socket.AF_INET)
                    self._answered_at = monotonic()
                except OSError as fault:
                    if _says_no(fault):
                        self._answered_at = monotonic()
                    else:
                        self._silent_at = monotonic()
        return self._answered_at >= since

    def _reconfigure(self) -> None:
        """A new channel, if there are other name servers now; what the former one was asked it may still answer."""
        if monotonic() - self._checked_at < _RECONFIGURE_EVERY:
            return
        self._checked_at = monotonic()
        version = _version(self._configuration)
        if version != self._configured:
            self._configured = version
            self._former.append(self._inner)
            self._inner = self._make()

    async def close(self) -> None:
        for resolver in (*self._former, self._inner):
            await resolver.close()


def guarded(egress: Egress, patience: float) -> GuardedResolver:
    """Needs a running loop. Channels of its own: aiohttp's shared one reads resolv.conf once and for ever."""
    return GuardedResolver(egress, lambda: aiohttp.AsyncResolver(timeout=2, tries=2), patience)


def has_route() -> bool:
    """Whether there is a way out of this machine. A host that cannot be reached may be of a family that we do not have."""
    for family, address in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 53))  # looks for a route, and sends nothing
        except OSError:
            continue
        return True
    return False


def _first(answers: Sequence[ResolveResult]) -> list[ResolveResult]:
    """Some of each family, in the order in which they came."""
    counts: Counter[int] = Counter()
    chosen = []
    for answer in answers:
        counts[answer["family"]] += 1
        if counts[answer["family"]] <= _MOST_DIALLED:
            chosen.append(answer)
    return chosen


def _says_no(fault: OSError) -> bool:
    """Whether it is an answer: there is no such name, or it has no address."""
    cause = fault.__cause__
    return isinstance(cause, aiodns.error.DNSError) and cause.args[0] in _NO_SUCH_NAME


def _version(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
