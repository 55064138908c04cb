"""Reads small files that a configuration is made of: never waits for one, and never reads more than it may hold."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MIB = 1 << 20


def read(path: Path, most: int = MIB) -> bytes:
    """What is in a file of at most `most` bytes. Raises ValueError with what is the matter, to be read behind its name."""
    try:
        # A FIFO would be waited for until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise ValueError(f"cannot be read: {fault.strerror}") from None
    except ValueError:
        raise ValueError("cannot be the name of a file") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("cannot be read: it is not a regular file")
        with open(descriptor, "rb", closefd=False) as stream:
            octets = stream.read(most + 1)
    except OSError as fault:
        raise ValueError(f"cannot be read: {fault.strerror}") from None
    finally:
        os.close(descriptor)
    if len(octets) > most:
        raise ValueError(f"has more than {most} bytes: it is not what it should be")
    return octets


def is_open_to_all(path: Path) -> bool:
    """Whether any user of this host may read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
