"""A deployment whose configuration is a file that changes under the daemon, and what the daemon logs meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bisd import log, scrutiny
from bisd.config import Config
from bisd.service import Service
from tests.support.daemon import running
from tests.support.shop import eventually


class Deployment:
    """Its file, written anew by `set`. It may reach the loopback address, and retries at once, three times in all."""

    def __init__(self, file: Path, ca_file: Path, dsn: str) -> None:
        self.file = file
        self.dsn = dsn
        self._sections: dict[str, dict[str, object]] = {
            "database": {"dsn": dsn},
            "retry": {"schedule": ["50ms"], "jitter": 0, "max_attempts": 3},
            "egress": {"allow": ["127.0.0.0/8"], "ports": ["1-65535"], "ca_file": str(ca_file)},
        }
        self.set("log", level="info", format="json")

    def set(self, section: str, **keys: object) -> None:
        """By another file that takes the place of the one there is, as an editor does it. None: the default."""
        self._sections[section] = self._sections.get(section, {}) | keys
        another = self.file.with_suffix(".new")
        another.write_text(self.text)
        another.rename(self.file)

    @property
    def text(self) -> str:
        lines = []
        for section, keys in self._sections.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
        return "\n".join(lines) + "\n"

    def read(self) -> Config:
        return scrutiny.read(self.file, {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        async with running(self.read(), self.dsn, self.read) as service:
            yield service


class Lines:
    """What the daemon in this process logs, from `info` on."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._lines: list[dict[str, Any]] = []
        log.configure("info", "json")

    def named(self, *events: str) -> list[dict[str, Any]]:
        self._lines += map(json.loads, self._capsys.readouterr().err.splitlines())
        return [line for line in self._lines if line["event"] in events]

    async def have(self, event: str, number: int = 1) -> dict[str, Any]:
        """Waits until there are so many of this event; the last of them."""

        async def said() -> bool:
            return len(self.named(event)) >= number

        await eventually(said)
        return self.named(event)[number - 1]
