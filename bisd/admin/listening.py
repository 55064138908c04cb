"""The socket that the HTTP face listens on. It is bound before anything else is done: what cannot be had stops the start."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bisd.address import Address
from bisd.errors import ConfigurationError

# Who floods is closed at once, and others need not try again a second later.
_BACKLOG = 1024
_PATIENCE = 1.0
# Its owner and its group may connect: write permission is what counts (unix(7)).
_MODE = 0o660


@contextmanager
def listening(at: Address | Path) -> Iterator[socket.socket]:
    """A socket that listens there, and is gone when the block ends. Raises ConfigurationError, which names the place."""
    if isinstance(at, Address):
        with _port(at) as one:
            yield one
        return
    with _path(at) as one:
        made = at.stat().st_ino
        try:
            yield one
        finally:
            with contextlib.suppress(FileNotFoundError):
                if at.stat().st_ino == made:  # somebody else may have put theirs there
                    at.unlink()


def _port(at: Address) -> socket.socket:
    family = socket.AF_INET if at.host.version == 4 else socket.AF_INET6
    try:
        return socket.create_server((str(at.host), at.port), family=family, backlog=_BACKLOG)
    except OSError as fault:
        if fault.errno == errno.EADDRINUSE:
            raise ConfigurationError([
                f"http.listen: port {at.port} of {at.host} is in use, by another daemon maybe: name another port, "
                'a socket, like "unix:/run/bisd/shop.sock", or "off"'
            ]) from None  # fmt: skip
        raise ConfigurationError([f"http.listen: {at} cannot be listened on: {fault.strerror}"]) from None


def _path(at: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if at.is_socket() and not _answers(at):
            at.unlink()  # of a daemon that was killed
        one.bind(str(at))
        os.chmod(at, _MODE)
        one.listen(_BACKLOG)
    except OSError as fault:
        one.close()
        if fault.errno == errno.EADDRINUSE:
            what = "another daemon listens on it" if at.is_socket() else "there is a file already, which is no socket"
            raise ConfigurationError([f"http.listen: {at} cannot be listened on: {what}"]) from None
        raise ConfigurationError([f"http.listen: {at} cannot be listened on: {fault.strerror}"]) from None
    return one


def _answers(at: Path) -> bool:
    """Whether anybody listens on a socket that is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(str(at))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # too busy to say so, or not ours to ask
    return True
