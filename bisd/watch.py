"""Looks at connections for what TLS swallows: a peer may send key updates, session tickets or padding without end, of which no
octet ever arrives at whoever reads."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

_LOOK_EVERY = 0.05
# The size of struct tcp_info up to and with tcpi_bytes_received.
_TCP_INFO = 136


class Watched(Protocol):
    def account_for(self, received: int) -> None:
        """So many octets have come in, TLS and all."""


class Watch:
    """Tells each connection from time to time how much has come in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Watched, tuple[socket.socket, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watched: Watched, transport: asyncio.BaseTransport) -> None:
        """From here on, after the handshake."""
        named = transport.get_extra_info("socket")
        # A second name for the same descriptor, which is not closed by it; uvloop's own makes a new one for every question.
        peer = socket.socket(named.family, named.type, named.proto, named.fileno())
        self._watched[watched] = peer, _octets_received(peer)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)

    def discard(self, watched: Watched) -> None:
        peer, _ = self._watched.pop(watched, (None, 0))
        if peer is not None:
            peer.detach()

    def _look(self) -> None:
        for watched, (peer, before) in list(self._watched.items()):
            watched.account_for(_octets_received(peer) - before)
        self._timer = self._loop.call_later(_LOOK_EVERY, self._look) if self._watched else None


def _octets_received(peer: socket.socket) -> int:
    """tcpi_bytes_received of struct tcp_info, which Linux has had since 4.1; elsewhere 0."""
    try:
        (octets,) = struct.unpack_from("Q", peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO), _TCP_INFO - 8)
    except (OSError, AttributeError, struct.error):
        return 0
    return int(octets)
