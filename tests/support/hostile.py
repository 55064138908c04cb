"""A hostile receiver: a raw asyncio server, without an HTTP library, that misbehaves in one way per path.

What it can do is in misbehaviour.py, a docstring each; all of it is served on `plain` and, over TLS, on `tls`. What happens
before there is a path has a port of its own: see `Hostile.PORTS`. It runs as a process, so that what it costs is not ours:

    python -m tests.support.hostile DIRECTORY

writes DIRECTORY/ca.pem, prints one line of JSON (port by name) and serves until its standard input ends. Whoever connects to
`control` gets a line of JSON: every request so far, as [path with query, octets in base64].
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import trustme

from tests.support.misbehaviour import MISBEHAVIOURS, NEVER, Peer, Seen


class Server:
    """The ports, and what has come over them."""

    def __init__(self, directory: Path) -> None:
        self._seen = Seen()
        self._ports: dict[str, int] = {}
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.pem"))

    async def start(self) -> dict[str, int]:
        day = timedelta(days=1)
        now = datetime.now(UTC)
        good = self._authority.issue_cert("127.0.0.1", "localhost")
        await self._listen("plain", self._serve)
        await self._listen("tls", self._serve, good)
        await self._listen("expired", self._serve, self._authority.issue_cert("127.0.0.1", not_after=now - day))
        await self._listen("not_yet", self._serve, self._authority.issue_cert("127.0.0.1", not_before=now + day))
        await self._listen("wrong_name", self._serve, self._authority.issue_cert("example.com"))
        await self._listen("untrusted", self._serve, trustme.CA().issue_cert("127.0.0.1"))
        await self._listen("old", self._hello)
        await self._listen("silent", self._silent)
        await self._listen("resets", self._resets)
        await self._listen("closes", self._closes)
        await self._listen("noise", self._noise)
        self._listen_with_tickets(good)
        await self._listen("control", self._control)
        return self._ports

    async def _listen(
        self,
        name: str,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        certificate: trustme.LeafCert | None = None,
    ) -> None:
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=1024)
        self._ports[name] = server.sockets[0].getsockname()[1]

    def _listen_with_tickets(self, certificate: trustme.LeafCert) -> None:
        """A thread for each, because the handshake does not end."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        context.num_tickets = 100_000_000
        listener = socket.create_server(("127.0.0.1", 0))
        self._ports["tickets"] = listener.getsockname()[1]

        def shake_hands(peer: socket.socket) -> None:
            with suppress(OSError), peer:
                context.wrap_socket(peer, server_side=True)

        def accept() -> None:
            while True:
                threading.Thread(target=shake_hands, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self._seen, reader, writer)
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while not writer.is_closing():
                await peer.request()
                await MISBEHAVIOURS[peer.path](peer)
        writer.close()

    async def _hello(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = b"\x03\x02" + bytes(32) + b"\0\xc0\x13\0"
        writer.write(b"\x16\x03\x02\0\x2a\x02\0\0" + bytes([len(hello)]) + hello)
        await asyncio.sleep(NEVER)

    async def _silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(NEVER)

    async def _resets(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        Peer(self._seen, reader, writer).reset()

    async def _closes(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def _noise(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await Peer(self._seen, reader, writer).pour(b"", b"\x16\x03\x03\x40\x00" + b"x" * 0x4000)

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps([(path, base64.b64encode(octets).decode()) for path, octets in self._seen.requests]).encode())
        writer.close()


class Hostile:
    """The process, as a test has it. `PORTS`: what each does, before there is a path."""

    PORTS: ClassVar[dict[str, str]] = {
        "plain": "nothing: see the path",
        "tls": "nothing: see the path",
        "expired": "its certificate is of the past",
        "not_yet": "its certificate is of the future",
        "wrong_name": "its certificate is somebody else's",
        "untrusted": "its certificate is of an authority that nobody knows",
        "old": "answers every handshake with the hello of TLS 1.1",
        "silent": "accepts and never says anything: as a TLS server, its handshake hangs",
        "resets": "RST as soon as it has accepted",
        "closes": "FIN as soon as it has accepted",
        "noise": "garbage that looks like TLS records, without end",
        "tickets": "sends TLS session tickets without end, and never an octet of an answer",
        "control": "what has come so far",
    }

    def __init__(self, ports: dict[str, int], ca_file: Path) -> None:
        self.ports = ports
        self.ca_file = ca_file

    def url(self, path: str, port: str = "plain") -> str:
        """https, except on `plain`; ask for other schemes by hand."""
        return f"{'http' if port == 'plain' else 'https'}://127.0.0.1:{self.ports[port]}{path}"

    async def requests(self, path: str) -> list[bytes]:
        """What has come for this path, query included."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["control"])
        came = json.loads(await reader.read())
        writer.close()
        await writer.wait_closed()
        return [base64.b64decode(octets) for at, octets in came if at == path]


@contextmanager
def serving(directory: Path) -> Iterator[Hostile]:
    """The hostile receiver as a process of its own."""
    command = [sys.executable, "-m", "tests.support.hostile", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Hostile(json.loads(process.stdout.readline()), directory / "ca.pem")
        finally:
            process.kill()


async def _main(directory: Path) -> None:
    server = Server(directory)
    print(json.dumps(await server.start()), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
