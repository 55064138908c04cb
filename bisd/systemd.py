"""Telling systemd how we are: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Sends `state` (READY=1, STOPPING=1, STATUS=...) to the manager that started us; False if none did or it is gone."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
        try:
            datagram.connect(address)
            datagram.sendall(state.encode())
        except OSError:
            return False
    return True
