"""Writes sql/blueprint.tsv: what the migrations make of an empty database.

python -m tests.support.blueprint
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from bisd import blueprint
from tests.support.postgres import Server

FILE = Path(__file__).parent.parent.parent / "bisd" / "sql" / "blueprint.tsv"


def text(things: blueprint.Things) -> str:
    return "".join(f"{thing.kind}\t{thing.name}\t{definition}\n" for thing, definition in things.items())


async def _found(dsn: str) -> blueprint.Things:
    connection = await asyncpg.connect(dsn)
    try:
        return await blueprint.found(connection)
    finally:
        await connection.close()


def main() -> None:
    server = Server()
    try:
        FILE.write_text(text(asyncio.run(_found(asyncio.run(server.create())))), encoding="utf-8")
    finally:
        server.remove()


if __name__ == "__main__":
    main()
