"""kill -9 of commands that change much: in the middle of a migration, of sealing keys anew, of a change of partitions."""

from __future__ import annotations

import asyncio
import base64
import random
import signal
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bisd import blueprint, db, migrate
from bisd.config import KeysConfig
from bisd.keyring import Keyring
from bisd.sealing import seal_accounts
from tests.support.postgres import Server
from tests.torture.ledger import Fault
from tests.torture.trap import COMMANDS, POINTS

_ACCOUNTS = 1200
_EVENTS = 3000


@dataclass
class Trials:
    """What was struck, and what was wrong after it."""

    server: Server
    directory: Path
    rng: random.Random
    faults: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def run(self, number: int) -> None:
        """So many, of each sort in turn."""
        sorts = (self._migrate, self._seal, self._partition)
        for trial in range(number):
            await sorts[trial % len(sorts)](self.directory / f"command-{trial}.toml")

    async def _migrate(self, file: Path) -> None:
        """Whatever a migration that was killed has left, the next one makes the same schema of it as one that was not."""
        dsn = await self.server.create(migrated=False)
        _configure(file, dsn)
        await self._killed("migrate", self._statement(), file, "migrate")
        connection = await db.connect(dsn)
        try:
            await migrate.migrate(connection)
            await migrate.require_current(connection)
            if drifted := await blueprint.drifted(connection):
                self.wrong.append(f"the schema is another one after a migration that was killed: {drifted[:5]}")
        finally:
            await connection.close()

    async def _seal(self, file: Path) -> None:
        """Whenever sealing anew is killed, every key opens, by one master key or the other; and it can be run to its end."""
        dsn = await self.server.create()
        masters = [file.with_suffix(f".{name}") for name in ("old", "new")]
        for master in masters:
            master.write_text(base64.b64encode(self.rng.randbytes(32)).decode())
            master.chmod(0o600)
        old, both = KeysConfig(masters[0]), Keyring(KeysConfig(masters[1], [masters[0]]))
        connection = await db.connect(dsn)
        try:
            await connection.execute(
                "insert into bisd.account (name, plan, api_key) "
                "select n, 'large', 'the key of the account number ' || n from generate_series(1, $1) n",
                _ACCOUNTS,
            )
            await seal_accounts(connection, Keyring(old))
            _configure(file, dsn, f'[keys]\nmaster_file = "{masters[1]}"\nretired_files = ["{masters[0]}"]')
            trap = (self.rng.choice([name for name in COMMANDS if name.startswith("question")]), self.rng.randint(1, 6))
            await self._killed("keys seal", trap, file, "keys", "seal")
            await self._open_all(connection, both)
            await seal_accounts(connection, both)
            await self._open_all(connection, Keyring(KeysConfig(masters[1])))
        finally:
            await connection.close()

    async def _open_all(self, connection: db.Connection, keyring: Keyring) -> None:
        rows = await connection.fetch("select id, name, api_key from bisd.account")
        keys = {row["name"]: keyring.open(row["id"], row["api_key"]) for row in rows}
        wrong = [name for name, key in keys.items() if key != f"the key of the account number {name}"]
        if wrong or len(rows) != _ACCOUNTS:
            self.wrong.append(f"{len(wrong)} of {len(rows)} keys are others after sealing that was killed")

    async def _partition(self, file: Path) -> None:
        """What the default partition holds moves to one of its own, all of it or nothing, whenever the daemon that does it is
        killed; and what is past its retention goes, and nothing else."""
        dsn = await self.server.create()
        _configure(file, dsn, '[http]\nlisten = "off"')
        connection = await db.connect(dsn)
        try:
            now = datetime.now(UTC)
            for days, kept in ((3, True), (5, True), (60, False)):
                await connection.execute(
                    "insert into bisd.event (account_id, topic, body, created_at) "
                    "select 1, case when $3 then 'kept' else 'old' end, '{}', $1 from generate_series(1, $2)",
                    now - timedelta(days=days), _EVENTS, kept,
                )  # fmt: skip
            passes = (self.rng.choice(("partitions", "statement under way", "question under way")), self.rng.randint(1, 6))
            await self._killed("change of partitions", passes, file, "run")
            counts = dict(map(tuple, await connection.fetch("select topic, count(*) from bisd.event group by 1")))
            if counts.get("kept") != 2 * _EVENTS or counts.get("old", _EVENTS) != _EVENTS:
                self.wrong.append(f"of {2 * _EVENTS} and {_EVENTS} events there are {counts} after a change of partitions")
            await connection.fetchval("select bisd.make_partitions(1)")
            if await connection.fetchval("select count(*) from bisd.event_default"):
                self.wrong.append("the default partition holds events after a change of partitions that was run to its end")
        finally:
            await connection.close()

    def _statement(self) -> tuple[str, int]:
        """One of the statements of a command."""
        name = self.rng.choice(COMMANDS)
        return name, self.rng.randint(1, POINTS[name].passes)

    async def _killed(self, what: str, trap: tuple[str, int], file: Path, *arguments: str) -> None:
        """Runs it with a trap; it may come to its end before, or is killed after a while."""
        with file.with_suffix(".log").open("ab") as log:
            program = ["-m", "tests.torture.trap", *map(str, trap), str(self.rng.randrange(1 << 30)), "--config", str(file)]
            process = await asyncio.create_subprocess_exec(sys.executable, *program, *arguments, stdout=log, stderr=log)
        try:
            status = await asyncio.wait_for(process.wait(), 3 if "run" in arguments else 60)
        except TimeoutError:
            process.kill()
            status = await process.wait()
        if status == -signal.SIGKILL:
            self.faults.append(Fault(f"kill -9 in {what}", cuts=False))
        elif status != 0:
            self.wrong.append(f"{what} was to die, and ended with {status}: {file.with_suffix('.log').read_text()[-300:]}")


def _configure(file: Path, dsn: str, more: str = "") -> None:
    file.write_text(f'[database]\ndsn = "{dsn}"\n{more}\n')
