"""The blueprint: what the migrations make of the schema, thing by thing, kept with the code. Against it a database is held, to
find what somebody has changed by hand.

sql/blueprint.tsv is written by `python -m tests.support.blueprint` after a change of the migrations; a test holds it equal to
what they make.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import NamedTuple

from bisd import db


class Thing(NamedTuple):
    """A table, column, constraint, index, trigger, function, type, view or right of the schema."""

    kind: str
    name: str


Things = dict[Thing, str]


def expected() -> Things:
    """What the migrations make, and how each thing is defined."""
    text = (files("bisd") / "sql" / "blueprint.tsv").read_text(encoding="utf-8")
    rows = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {Thing(kind, name): definition for kind, name, definition in rows}


async def drifted(connection: db.Connection) -> list[Thing]:
    """What is missing here, or is defined otherwise. What was added is no drift: it may be meant."""
    here = await found(connection)
    return sorted(thing for thing, definition in expected().items() if here.get(thing) != definition)


async def found(connection: db.Connection) -> Things:
    """What this database has."""
    async with connection.transaction(readonly=True):
        await connection.execute(db.query("blueprint_settings"))
        rows = await connection.fetch(db.query("blueprint"))
    return {Thing(row["kind"], row["name"]): row["definition"] for row in rows}
