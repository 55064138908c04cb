"""The server: whether it can be reached, by whom, and how it is set up."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched

from bisd import db
from bisd.check.finding import Finding, Subject, fault, ok, warning
from bisd.config import Config

UNREACHABLE = (
    OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip
# What a daemon keeps, and one for a moment.
_SESSIONS = 3
_HARM = {
    "fsync": "a power cut may destroy the database",
    "full_page_writes": "a power cut may destroy the database",
    "synchronous_commit": "what the application was told is committed may be gone after a crash, and its deliveries with it",
    "autovacuum": "dead rows pile up in bisd.delivery until looking is slow: switch it on",
    "track_counts": "autovacuum is blind without it: switch it on",
    "track_activities": "nobody can see what holds the database up: switch it on",
    "log_statement": "bodies of events, with what they say of customers, are written to the server's log",
    "log_min_duration_statement": "bodies of events, with what they say of customers, are written to the server's log",
}


def unreachable(why: BaseException) -> Finding:
    """Why there is no connection, by the type of what was raised, and what to do about it. No password is in it."""
    match why:
        case socket.gaierror():
            says = "its host has no address: is its name right, and does this host resolve it?"
        case ConnectionRefusedError():
            says = "nobody listens there: does the server run, and is the port right? (listen_addresses, a firewall)"
        case TimeoutError():
            says = "it does not answer: a firewall, a wrong address, or a server that is at its end"
        case FileNotFoundError():
            says = "its Unix socket does not exist: does the server run, and is its directory (?host=...) right?"
        case ssl.SSLError():
            says = f"TLS fails ({getattr(why, 'reason', None) or type(why).__name__}): see sslmode and sslrootcert in the URL"
        case asyncpg.InvalidPasswordError():
            says = "it refuses the password"
        case asyncpg.InvalidAuthorizationSpecificationError():
            says = f"it does not let us in: {why.args[0]}: see pg_hba.conf"
        case asyncpg.InvalidCatalogNameError():
            says = f"{why.args[0]}: create it, in UTF8, and run `bisd migrate`"
        case asyncpg.TooManyConnectionsError():
            says = "it has no connection left: raise max_connections, or find who holds them"
        case asyncpg.CannotConnectNowError():
            says = "it starts or stops just now: try again in a moment"
        case TargetServerAttributeNotMatched():
            says = "no host that the URL names can be written to: name the primary"
        case ValueError():
            says = "it is not a PostgreSQL URL"
        case _:
            says = f"it cannot be reached ({type(why).__name__}{_state(why)})"
    return fault(Subject.DATABASE, f"[database] dsn: {says}")


def _state(why: BaseException) -> str:
    return f", SQLSTATE {why.sqlstate}" if isinstance(why, asyncpg.PostgresError) else ""


async def role(connection: db.Connection, config: Config) -> list[Finding]:
    """Who we are, how we came here, and whether there is room."""
    row = await connection.fetchrow(db.query("check_role"))
    assert row is not None
    return judge(dict(row), named=config.database.dsn is not None or config.database.dsn_file is not None)


def judge(row: dict[str, Any], *, named: bool) -> list[Finding]:
    """By a row of check_role.sql. `named`: the configuration says as whom to come; the embedded PostgreSQL has one role."""
    name, found = row["role"], []
    if named and (row["super"] or row["creates_roles"] or row["owner"]):
        what = "a superuser" if row["super"] else "the owner of the schema" if row["owner"] else "one that makes roles"
        says = f"{name} is {what}: let bisd run as a role that is granted bisd_daemon and nothing else"
        found.append(warning(Subject.ROLE, says))
    if row["line"]:
        says = "the connection is not encrypted, and bodies and API keys go over it: sslmode=verify-full in the URL"
        found.append(warning(Subject.ROLE, says))
    for limit, where in ((row["role_limit"], f"role {name}"), (row["database_limit"], "database")):
        if 0 <= limit < _SESSIONS and not row["super"]:
            says = f"the {where} has a limit of {limit} connections, a daemon needs {_SESSIONS}: alter it, connection limit -1"
            found.append(fault(Subject.ROLE, says))
    if row["free"] is not None and row["free"] < _SESSIONS:
        says = f"{row['free']} connections are left, a daemon needs {_SESSIONS}: raise max_connections, or find who holds them"
        found.append(fault(Subject.ROLE, says))
    return found or [ok(Subject.ROLE, f"{name}, with no more rights than it needs and {row['free']} connections left")]


async def settings(connection: db.Connection, _: Config) -> list[Finding]:
    """Those that lose or tell what they should not."""
    rows = await connection.fetch(db.query("check_settings"))
    found = [warning(Subject.SETTINGS, f"{row['name']} is {row['setting']}: {_HARM[row['name']]}") for row in rows]
    return found or [ok(Subject.SETTINGS, "none that loses or tells what it should not")]
