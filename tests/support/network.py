"""A network of the tests' own in which every address is this host: whoever dials any, inside or public, gets through.

The calling thread moves into a new network namespace (as `unshare -n` does) where all of IPv4 and IPv6 is routed to the
loopback interface. What nobody else listens on falls to the canaries; and every TCP connection is seen on the wire as it is
asked for.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

# Where somebody who has got in would knock: HTTPS and what is behind it, proxies, mail, databases, the metadata services.
PORTS = (22, 25, 53, 80, 443, 1080, 3128, 5432, 6379, 8080, 8443)
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_IPV6_FREEBIND = 78
_SYN, _ACK = 0x02, 0x10
Dialled = set[tuple[str, int]]


class NotPermitted(Exception):
    """This process may not make namespaces."""


@contextmanager
def namespace() -> Iterator[None]:
    """This thread, and what it starts, is in a network of its own. Raises NotPermitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise NotPermitted(os.strerror(ctypes.get_errno()))
        try:
            for words in ("link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"):
                ip(words)
            yield
        finally:
            if libc.setns(outside, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot return from the namespace")
    finally:
        os.close(outside)


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})


def listening(address: str, port: int) -> socket.socket:
    """Takes what is for that address before the canaries do. :: is every address, of either family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    listener.setblocking(False)
    listener.bind((address, port))
    listener.listen(128)
    return listener


class Watch:
    """Canaries on every address, and the wire. Use as a context manager."""

    def __enter__(self) -> Watch:
        self._canaries = [listening("::", port) for port in PORTS]
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._wire.bind(("lo", _ETH_P_ALL))
        self._wire.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._canaries, self._wire):
            each.close()

    def hits(self) -> list[str]:
        """Addresses at which canaries have been reached since they were last asked."""
        found = []
        for canary in self._canaries:
            while True:
                try:
                    connection, _ = canary.accept()
                except BlockingIOError:
                    break
                found.append(f"{connection.getsockname()[0]} {connection.getsockname()[1]}")
                connection.close()
        return found

    def dialled(self) -> Dialled:
        """Where connections were asked for, whoever listens there, since this was last asked."""
        found: Dialled = set()
        while True:
            try:
                packet = self._wire.recv(256)
            except BlockingIOError:
                return found
            if (seen := _dialled(packet)) is not None:
                found.add(seen)


def _dialled(packet: bytes) -> tuple[str, int] | None:
    """The destination of a SYN (RFC 791, 8200, 9293), None for anything else."""
    if packet[0] >> 4 == 4:
        protocol, to, tcp = packet[9], packet[16:20], packet[(packet[0] & 15) * 4 :]
    else:
        protocol, to, tcp = packet[6], packet[24:40], packet[40:]
    if protocol != socket.IPPROTO_TCP or tcp[13] & (_SYN | _ACK) != _SYN:
        return None
    return str(ip_address(to)), struct.unpack(">H", tcp[2:4])[0]
