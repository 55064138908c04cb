"""Who receives: nginx where it is installed, and a receiver of our own for answers that wait, hang or are stamped."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bisd.bench.processes import answered, helper
from bisd.errors import BenchFailedError

_PATIENCE = 10.0


class Stamp(NamedTuple):
    """A request that came: its path, its webhook-id, the notification that it is about, and when."""

    path: str
    event: str
    notification: int
    at: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What the receiver of our own has had since it was last asked: most at once, and every request."""

    peak: int
    stamps: list[Stamp]

    @property
    def repeats(self) -> int:
        """How often a webhook was sent what it had been sent already."""
        return len(self.stamps) - len({(stamp.path, stamp.event) for stamp in self.stamps})


@dataclass(frozen=True, slots=True)
class Receivers:
    """URLs have a place for the webhook's number, {id}. `fast` is nginx, or ourselves."""

    own: dict[str, int]
    fast: dict[str, int]
    dead_port: int
    ca_file: Path
    name: str

    def at_once(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.fast[scheme]}/now/{{id}}"

    def closing(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.fast[scheme]}/close/{{id}}"

    def stamping(self) -> str:
        return f"http://127.0.0.1:{self.own['http']}/now/{{id}}"

    def waiting(self, milliseconds: int) -> str:
        return f"http://127.0.0.1:{self.own['http']}/wait/{milliseconds}/{{id}}"

    def hanging(self) -> str:
        return f"http://127.0.0.1:{self.own['http']}/hang/{{id}}"

    def dead(self) -> str:
        return f"http://127.0.0.1:{self.dead_port}/"

    async def taken(self) -> Taken:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.own["http"], limit=1 << 30)
        try:
            writer.write(b"GET /taken HTTP/1.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            body = json.loads(await reader.readexactly(int(head.rpartition(b": ")[2])))
        finally:
            writer.close()
        return Taken(body["peak"], [Stamp(*stamp) for stamp in body["stamps"]])


@asynccontextmanager
async def receiving(directory: Path) -> AsyncIterator[Receivers]:
    import trustme

    authority = trustme.CA()
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server_file)
    async with helper("bisd.bench.receiver", str(server_file)) as process:
        own = json.loads(await answered(process))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # taken, and not listened at: nobody answers here as long as we run
            dead = closed.getsockname()[1]
            if shutil.which("nginx") is None:
                yield Receivers(own, own, dead, ca_file, "own receiver")
                return
            async with _nginx(directory, server_file) as fast:
                yield Receivers(own, fast, dead, ca_file, "nginx")


@asynccontextmanager
async def _nginx(directory: Path, server_file: Path) -> AsyncIterator[dict[str, int]]:
    """Answers 200 at once, on HTTP and HTTPS, with one worker."""
    ports = _free_ports()
    locations = "location / { return 200; } location /close/ { keepalive_timeout 0; return 200; }"
    file = directory / "nginx.conf"
    file.write_text(f"""
        worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
            uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            server {{ listen 127.0.0.1:{ports["http"]} backlog=4096; {locations} }}
            server {{ listen 127.0.0.1:{ports["https"]} ssl backlog=4096; {locations}
                      ssl_certificate {server_file}; ssl_certificate_key {server_file}; }}
        }}""")
    process = await asyncio.create_subprocess_exec(
        "nginx", "-c", str(file), "-e", str(directory / "nginx.log"),
        stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        await _listening(process, ports["https"])
        yield ports
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _free_ports() -> dict[str, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return {"http": first.getsockname()[1], "https": second.getsockname()[1]}


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return
    except TimeoutError:
        pass
    raise BenchFailedError(reason="nginx did not start, see above")
