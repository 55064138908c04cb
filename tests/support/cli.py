"""`bisd ...` as a person or a program runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class Run:
    """Runs commands under one configuration; more settings come as variables of the environment."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bisd", *arguments],
            input=stdin, capture_output=True, text=True, timeout=60,
            env=os.environ | {"BISD_CONFIG": str(self._config)} | environment,
        )  # fmt: skip
