"""API keys: whether each can be opened, and how they are kept."""

from __future__ import annotations

from bisd import db, insight
from bisd.check.finding import Finding, Subject, fault, ok, some, warning
from bisd.config import Config
from bisd.errors import ConfigurationError, KeyUnreadableError
from bisd.keyring import Keyring


async def keys(connection: db.Connection, config: Config) -> list[Finding]:
    """Every sealed key is opened: one that cannot be holds its account's webhooks."""
    try:
        keyring = Keyring(config.keys)
    except ConfigurationError as wrong:
        return [fault(Subject.KEYS, said) for said in wrong.faults]
    unreadable = set()
    for row in await connection.fetch(db.query("sealed_keys")):
        try:
            keyring.open(row["id"], row["key"])
        except KeyUnreadableError:
            unreadable.add(row["id"])
    if unreadable:
        ids = some([str(account_id) for account_id in sorted(unreadable)])
        says = f"API keys of {len(unreadable)} accounts cannot be opened, their webhooks are held: {ids}. See bisd keys status"
        return [fault(Subject.KEYS, says)]
    if not keyring.has_master:
        says = "API keys are not encrypted at rest, grants alone protect them: see [keys] master_file"
        return [warning(Subject.KEYS, says)]
    behind = sum(count.keys for count in keyring.census(await insight.keys(connection)) if count.state != "current")
    if behind:
        return [warning(Subject.KEYS, f"{behind} API keys are not sealed under the master key: bisd keys seal")]
    return [ok(Subject.KEYS, "all API keys are sealed under the master key")]
