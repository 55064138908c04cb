"""What a hostile receiver does once a request has come: a function per misbehaviour, its path its name."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"Content-Length: 2\r\n\r\nok"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEVER = 3600.0


class Seen:
    """What has come, on all connections: (path with query, octets) of every request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []

    def times(self, path: str) -> int:
        return sum(at == path for at, _ in self.requests)


class Peer:
    """One connection, and the request that has come over it."""

    def __init__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen = seen
        self.reader = reader
        self.writer = writer
        self.number = 0
        self.path = self.query = ""
        self.body = b""

    async def request(self) -> None:
        """Reads the next one, its body where somebody would."""
        first = await self.reader.readexactly(1)
        if first == b"\x16":  # TLS, on the port that has none
            await self.say(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            raise ConnectionError
        head = first + await self.reader.readuntil(b"\r\n\r\n")
        self.path, _, self.query = head.split(b" ", 2)[1].decode().partition("?")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        self.body = await self.reader.readexactly(length) if self.path not in ("/unread", "/early", "/deaf") else b""
        self.number += 1
        self.seen.requests.append((f"{self.path}?{self.query}", head + self.body))

    async def say(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def drip(self, octets: bytes, seconds: float) -> None:
        """An octet at a time."""
        for octet in octets:
            await self.say(bytes([octet]))
            await asyncio.sleep(seconds)

    async def pour(self, begin: bytes, again: bytes) -> None:
        """`begin`, and then `again` without end."""
        await self.say(begin)
        again *= max(1, (1 << 16) // len(again))
        while True:
            await self.say(again)
            await asyncio.sleep(0)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Misbehaviour = Callable[[Peer], Awaitable[None]]
MISBEHAVIOURS: dict[str, Misbehaviour] = {}


def misbehaviour(function: Misbehaviour) -> Misbehaviour:
    MISBEHAVIOURS["/" + function.__name__] = function
    return function


def says(name: str, octets: bytes, what: str) -> None:
    """A misbehaviour that is all in what it says."""

    async def say(peer: Peer) -> None:
        await peer.say(octets)

    say.__doc__ = what
    MISBEHAVIOURS[f"/{name}"] = say


def pours(name: str, begin: bytes, again: bytes, what: str) -> None:
    """A misbehaviour that never ends."""

    async def pour(peer: Peer) -> None:
        await peer.pour(begin, again)

    pour.__doc__ = what
    MISBEHAVIOURS[f"/{name}"] = pour


# F20 to F24: answers without end.
_MEMBER = bytes.fromhex("1f8b08000000000002ff03000000000000000000")
_ZEROS = bytes.fromhex("ecc1810000000080a0fda91729") + b"\0" * 1000
pours("big", HEAD + b"Content-Length: 10737418240\r\n\r\n", b"x", "A body of 10 GB, its length announced.")
pours("big_chunked", CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", "A body of 10 GB, in chunks of 64 KiB.")
pours("tiny_chunks", CHUNKED, b"1\r\nx\r\n", "An endless body in chunks of one octet.")
pours("gzip_bomb", HEAD + b"Content-Encoding: gzip\r\nContent-Length: 536870912\r\n\r\n" + _MEMBER[:10], _ZEROS,
      "A body that says it is gzip, of zeros without end.")  # fmt: skip
pours("headers", HEAD, b"X-Again: and again\r\n", "Headers without end, all of one name.")
pours("endless_header", HEAD + b"X-Long: ", b"x", "One header without end.")
pours("endless_name", HEAD, b"x", "The name of a header without end.")
pours("endless_status", b"HTTP/1.1 200 ", b"K", "A status line without end.")
pours("trailers", CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Again: and again\r\n", "Trailers without end.")
pours("chunk_extension", CHUNKED + b"1;", b"x", "The extension of a chunk without end.")
pours("chunk_size", CHUNKED, b"0", "The size of a chunk, of zeros without end.")
pours("continues", b"", b"HTTP/1.1 100 Continue\r\n\r\n", "100 Continue, for ever.")
pours("hints", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n", "103 Early Hints, for ever.")
pours("many_answers", b"", OK, "200 again and again, for one request.")
pours("blank_lines", b"", b"\r\n", "Blank lines before a status that never comes.")
says("members", HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4000000\r\n\r\n" + _MEMBER * 200_000,
     "200,000 empty members of gzip.")  # fmt: skip

# F25: what is not HTTP, or just about.
says("two_lengths", HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", "Two lengths, which differ.")
says("bad_chunk", CHUNKED + b"2\r\nok\r\nzz\r\n", "A chunk whose size is no number.")
says("no_content", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "204, which has no body, and a body.")
says("not_modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", "304, which has no body, and a body.")
says("switching", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101, to no protocol in particular.")
says("length_and_chunked", HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
     "A length, and chunks as well: two servers could disagree on where it ends.")  # fmt: skip
says("negative_length", HEAD + b"Content-Length: -1\r\n\r\n", "A length below zero.")
says("nul", HEAD + b"X-Nul: a\0b\r\nContent-Length: 2\r\n\r\nok", "A NUL in a header.")
says("http09", b"<html>It works!</html>", "HTTP/0.9: a body and nothing else, and no end of it.")
says("garbage", b"\x00\xff\x16\x03\x01SSH-2.0-OpenSSH_9.2\r\n\r\n", "No HTTP at all.")
says("status_0200", b"HTTP/1.1 0200 OK\r\nContent-Length: 0\r\n\r\n", "A status of four digits.")
says("status_999", b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n", "A status that nobody has defined.")
says("status_007", b"HTTP/1.1 007 Bond\r\nContent-Length: 0\r\n\r\n", "A status below all that there are.")
says("upgrade", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + b"x" * 9999,
     "101: it goes on in a protocol that nobody asked for.")  # fmt: skip
says("upgrade_200", HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok", "200, and an upgrade.")

# F33: what a browser would keep.
says("cookie", HEAD + b"Set-Cookie: a=1; Path=/; Max-Age=99999\r\nStrict-Transport-Security: max-age=99999\r\n"
     b'Alt-Svc: h3=":1"\r\nContent-Length: 2\r\n\r\nok', "Cookies, HSTS and an alternative service.")  # fmt: skip
says("cookies", HEAD + b"".join(b"Set-Cookie: %s\r\n" % (b'a="\\' * 2000) for _ in range(7)) + b"Content-Length: 2\r\n\r\nok",
     "Cookies that are hard to parse, as large as headers may be.")  # fmt: skip
# F34
for _name, _to in {
    "metadata": b"http://169.254.169.254/latest/meta-data/", "loop": b"/redirect_loop", "file": b"file:///etc/passwd",
    "canary": b"/canary", "nonsense": b"http://[::1", "terminal": b"/\x1b[2J\xff" + b"x" * 7000,
}.items():  # fmt: skip
    says(f"redirect_{_name}", b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + _to + b"\r\nContent-Length: 0\r\n\r\n",
         f"A redirect: {_name}.")  # fmt: skip
# F35, F36
says("gone", b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "410: never again.")
says("error_200", HEAD + b'Content-Length: 18\r\n\r\n{"error":"failed"}', "200 that says it is an error.")


@misbehaviour
async def retry_after(peer: Peer) -> None:
    """429 with the Retry-After that is asked for in the query, in hexadecimal."""
    await peer.say(b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: " + bytes.fromhex(peer.query) + b"\r\n\r\n")


@misbehaviour
async def ok(peer: Peer) -> None:
    """None: 200 and a body of two octets, as anybody would."""
    await peer.say(OK)


@misbehaviour
async def echo(peer: Peer) -> None:
    """Answers with the very octets of the request's body, and closes."""
    await peer.say(peer.body)
    peer.writer.close()


# F27 to F30: time and the end of connections.
@misbehaviour
async def hang(peer: Peer) -> None:
    """Reads the request, and never answers."""
    await asyncio.sleep(NEVER)


@misbehaviour
async def unread(peer: Peer) -> None:
    """Does not read the body of the request, and never answers."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(NEVER)


@misbehaviour
async def deaf(peer: Peer) -> None:
    """200 again and again, and not an octet of the body is ever read."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        await peer.say(OK)
        await asyncio.sleep(0.004)


@misbehaviour
async def slow_header(peer: Peer) -> None:
    """Half a header, and ten octets of the rest a second."""
    await peer.say(HEAD + b"X-Slow: ")
    await peer.drip(b"x" * 10_000, 0.1)


@misbehaviour
async def slow_body(peer: Peer) -> None:
    """200, and ten octets of the body a second."""
    await peer.say(HEAD + b"Content-Length: 10000\r\n\r\n")
    await peer.drip(b"x" * 10_000, 0.1)


@misbehaviour
async def segments(peer: Peer) -> None:
    """A header in segments, and over TLS records, of one octet each, as fast as it can."""
    peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await peer.say(HEAD)
    for _ in range(63):
        await peer.drip(b"X-Tiny: " + b"x" * 1000 + b"\r\n", 0)
    await asyncio.sleep(NEVER)


@misbehaviour
async def empty(peer: Peer) -> None:
    """FIN, and no answer."""
    peer.writer.close()


@misbehaviour
async def reset(peer: Peer) -> None:
    """RST, and no answer."""
    peer.reset()


@misbehaviour
async def reset_in_header(peer: Peer) -> None:
    """RST inside a header."""
    await peer.say(HEAD + b"X-Half: ")
    await asyncio.sleep(0.05)
    peer.reset()


@misbehaviour
async def reset_in_body(peer: Peer) -> None:
    """200, half the body, RST."""
    await peer.say(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
    await asyncio.sleep(0.05)
    peer.reset()


@misbehaviour
async def truncated(peer: Peer) -> None:
    """200, half the body, FIN."""
    await peer.say(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
    peer.writer.close()


@misbehaviour
async def early(peer: Peer) -> None:
    """200 before the body of the request has been read, and RST for what is left of it."""
    await peer.say(HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nok")
    peer.writer.close()


# F31, F32: connections that were kept open.
@misbehaviour
async def closes_idle(peer: Peer) -> None:
    """200, and closes the connection a moment later, without a word."""
    await peer.say(OK)
    await asyncio.sleep(0.02)
    peer.writer.close()


@misbehaviour
async def closes_reused(peer: Peer) -> None:
    """200 to the first request of a connection; closes it when the second has come."""
    if peer.number == 1:
        await peer.say(OK)
    else:
        peer.writer.close()


@misbehaviour
async def resets_reused(peer: Peer) -> None:
    """200 to the first request of a connection; RST when the second has come."""
    if peer.number == 1:
        await peer.say(OK)
    else:
        peer.reset()


@misbehaviour
async def closes_always(peer: Peer) -> None:
    """200 to the very first request (of one query); closes at every other, whatever the connection."""
    await (ok(peer) if peer.seen.times(f"{peer.path}?{peer.query}") == 1 else empty(peer))


@misbehaviour
async def one_octet_reused(peer: Peer) -> None:
    """200 to the first request of a connection; one octet, and FIN, to the second."""
    await peer.say(OK if peer.number == 1 else b"H")
    if peer.number > 1:
        peer.writer.close()


@misbehaviour
async def hangs_reused(peer: Peer) -> None:
    """200 to the first request of a connection; nothing to the second."""
    await (ok(peer) if peer.number == 1 else hang(peer))


@misbehaviour
async def closes_then_hangs(peer: Peer) -> None:
    """200 to the very first request (of one query), FIN to the second after half a second, nothing to others."""
    match peer.seen.times(f"{peer.path}?{peer.query}"):
        case 1:
            await ok(peer)
        case 2:
            await asyncio.sleep(0.5)
            await empty(peer)
        case _:
            await hang(peer)


@misbehaviour
async def extra(peer: Peer) -> None:
    """200, and a moment later another answer that nobody has asked for (403)."""
    await peer.say(OK)
    await asyncio.sleep(0.02)
    await peer.say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


@misbehaviour
async def extra_partial(peer: Peer) -> None:
    """200, and a moment later the beginning of another answer."""
    await peer.say(OK)
    await asyncio.sleep(0.02)
    await peer.say(b"HTTP/1.1 403 Forb")


says("extra_at_once", OK + b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "200 and 403 in one segment.")
says("extra_garbage", OK + b"garbage", "200, and octets that are no HTTP in the same segment.")
