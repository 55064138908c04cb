"""Telling systemd how we are: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache
from time import CLOCK_MONOTONIC, clock_gettime_ns

# Seconds. The manager reads at once, or there are more important things to do than to tell it how we are.
_PATIENCE = 0.2


def notify(state: str) -> bool:
    """Sends `state` (READY=1, STOPPING=1, STATUS=...) to the manager that started us; False if none did, or it is gone, or does
    not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        _datagrams().sendto(state.encode(), address)
    except OSError:
        return False
    return True


@cache
def _datagrams() -> socket.socket:
    """Opened once: a daemon that has no file descriptors left is alive, and must be able to say so."""
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    datagrams.settimeout(_PATIENCE)
    return datagrams


def reloading() -> bool:
    """The daemon has begun to read its configuration again; READY=1 ends it. The time lets the manager tell this reload from
    an earlier one (systemd 253 and later wait for it)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")


def extension(seconds: float) -> str:
    """The manager is to wait for so long, from now on, for the next word of ours: a line of a state."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}"


def watchdog(environment: Mapping[str, str], pid: int) -> float | None:
    """Within how many seconds the manager wants to hear WATCHDOG=1 again and again; None if it does not, or not from us."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid) or not (microseconds.isascii() and microseconds.isdigit()):
        return None
    return int(microseconds) / 1_000_000 or None
