"""A name server over UDP, on which whoever owns a name answers as he likes, and otherwise the next time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from ipaddress import IPv4Address, ip_address
from typing import cast

_A, _CNAME, _AAAA = 1, 5, 28
_NO_SUCH_NAME = 3
# Addresses, and names that stand for it ("=other.example.com").
Answer = list[str]


class Zone(asyncio.DatagramProtocol):
    """`names`: what each answers, the first time it is asked for a type of record, the second time, and from then on."""

    def __init__(self, names: dict[str, list[Answer]]) -> None:
        self.names = names
        self.asked: Counter[tuple[str, int]] = Counter()
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's are of no class of asyncio's

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._answer(data), addr)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name, kind = ".".join(labels).lower(), struct.unpack(">H", query[at + 1 : at + 3])[0]
        rounds = self.names.get(name)
        records = self._records(name, kind, rounds) if rounds else []
        flags = 0x8180 | (0 if rounds else _NO_SUCH_NAME)
        return query[:2] + struct.pack(">5H", flags, 1, len(records), 0, 0) + query[12 : at + 5] + b"".join(records)

    def _records(self, name: str, kind: int, rounds: list[Answer]) -> list[bytes]:
        answer = rounds[min(self.asked[name, kind], len(rounds) - 1)]
        self.asked[name, kind] += 1
        records = []
        for entry in answer:
            if entry.startswith("="):
                records.append(_record(name, _CNAME, _wire(entry[1:])))
                records += self._records(entry[1:], kind, self.names[entry[1:]])
                continue
            address = ip_address(entry)
            if (_A if isinstance(address, IPv4Address) else _AAAA) == kind:
                records.append(_record(name, kind, address.packed))
        return records


def _wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _wire(name) + struct.pack(">HHIH", kind, 1, 0, len(data)) + data


async def serve(zone: Zone, address: str, port: int) -> asyncio.BaseTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: zone, local_addr=(address, port), family=socket.AF_INET
    )
    return transport
