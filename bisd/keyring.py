"""API keys at rest: sealed by a master key that the database never sees, and opened where they sign.

A sealed key is text, `sealed:1:<master key's id>:<base64url of nonce, ciphertext, tag>`: AES-256-GCM (NIST SP 800-38D) with a
random 96-bit nonce per sealing, bound to the account, so that what was copied from another row does not open. It is not bound
to the column: a rotation moves the key into another one of its row. What does not begin like this is a key in plain.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bisd import config as configuration
from bisd.config import KeysConfig
from bisd.errors import ConfigurationError, KeyUnreadableError

_NONCE_BYTES = 12
# Whatever version: an older bisd must not sign with the sealed text of a newer one.
_RESERVED = re.compile(r"sealed:[0-9]+:")
_SEALED = re.compile(r"sealed:1:([0-9a-f]{16}):([A-Za-z0-9_-]+)")
_TO_MAKE_ONE = "`openssl rand -base64 32` makes one"

State = Literal["plain", "current", "retired", "unknown"]


@dataclass(frozen=True, slots=True)
class KeyCount:
    """So many API keys, previous ones among them, are sealed under the master key of that id; None: in plain."""

    key_id: str | None
    state: State
    keys: int


class Keyring:
    """The master keys of a deployment: the current one, which seals, and retired ones, which still open. May have none."""

    def __init__(self, config: KeysConfig) -> None:
        """Reads the files. Raises ConfigurationError with every fault at once."""
        faults: list[str] = []
        self._masters: dict[str, AESGCM] = {}
        self._current = self._add("keys.master_file", config.master_file, faults) if config.master_file else None
        for number, path in enumerate(config.retired_files):
            self._add(f"keys.retired_files.{number}", path, faults)
        if faults:
            raise ConfigurationError(faults)

    def __repr__(self) -> str:
        return f"<Keyring current={self._current} retired={sorted(self._masters.keys() - {self._current})}>"

    @property
    def has_master(self) -> bool:
        """Whether keys can be sealed; without a master key they are protected by grants alone."""
        return self._current is not None

    def require_master(self) -> str:
        """The id of the current master key. Raises ConfigurationError if there is none."""
        if self._current is None:
            raise ConfigurationError([f"keys.master_file: no master key is configured: {_TO_MAKE_ONE}; write it to a file"])
        return self._current

    def seal(self, account_id: int, text: str) -> str:
        """The account's key, sealed by the current master key; another text every time. Raises ConfigurationError if there
        is no master key."""
        key_id = self.require_master()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._masters[key_id].encrypt(nonce, text.encode("utf-8", "surrogatepass"), _bound_to(account_id, key_id))
        return f"sealed:1:{key_id}:{_encode(nonce + sealed)}"

    def open(self, account_id: int, text: str) -> str:
        """The account's key in plain, out of either column of its row. Raises KeyUnreadableError."""
        if not _RESERVED.match(text):
            return text
        match = _SEALED.fullmatch(text)
        if match is None:
            raise KeyUnreadableError(account_id=account_id, reason="it was changed, or sealed by a later bisd")
        key_id, blob = match[1], _decode(match[2])
        if key_id not in self._masters:
            reason = f"it is sealed under master key {key_id}, which [keys] names neither as master_file nor in retired_files"
            raise KeyUnreadableError(account_id=account_id, reason=reason)
        try:
            opened = self._masters[key_id].decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _bound_to(account_id, key_id))
            return opened.decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError):  # ValueError: too short for a nonce
            reason = "it was changed, or sealed for another account"
            raise KeyUnreadableError(account_id=account_id, reason=reason) from None

    def is_current(self, text: str) -> bool:
        """Whether the text is sealed under the current master key, by what it says of itself."""
        match = _SEALED.fullmatch(text)
        return match is not None and match[1] == self._current

    def census(self, counts: Mapping[str, int]) -> list[KeyCount]:
        """What `insight.keys` counted, by what it means here: keys in plain first, every master key of ours, then others."""
        ours = [KeyCount(None, "plain", counts.get("", 0))]
        for key_id in self._masters:
            ours.append(KeyCount(key_id, "current" if key_id == self._current else "retired", counts.get(key_id, 0)))
        others = sorted(counts.keys() - self._masters.keys() - {""})
        return ours + [KeyCount(key_id, "unknown", counts[key_id]) for key_id in others]

    def _add(self, key: str, path: Path, faults: list[str]) -> str | None:
        """The id of the master key in the file, which joins the ring; None, and a fault, if it cannot."""
        try:
            master = _parse(configuration.secret(path, key))
        except ConfigurationError as fault:
            faults.append(f"{fault}; {_TO_MAKE_ONE}")
            return None
        except ValueError as fault:
            faults.append(f"{key}: {path} {fault}; {_TO_MAKE_ONE}")
            return None
        key_id = hmac.digest(master, b"bisd master key id", "sha256")[:8].hex()
        if key_id in self._masters:
            faults.append(f"{key}: {path} has a master key that another file has too: name it once")
            return None
        self._masters[key_id] = AESGCM(master)
        return key_id


def _parse(text: str) -> bytes:
    """32 octets, written as 44 characters of base64 or as 64 hexadecimal digits. Raises ValueError, which does not quote."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        master = bytes.fromhex(text)
    elif re.fullmatch(r"[A-Za-z0-9+/]{43}=", text):
        master = base64.b64decode(text)
    else:
        raise ValueError("holds no master key: 32 random octets as 44 characters of base64 or 64 hexadecimal digits, no more")
    if not any(master):
        raise ValueError("holds nothing but zeros")
    return master


def _bound_to(account_id: int, key_id: str) -> bytes:
    return f"bisd.account:{account_id}:sealed:1:{key_id}".encode()


def _encode(blob: bytes) -> str:
    return base64.urlsafe_b64encode(blob).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """Nothing, which does not open, for what _encode never writes: one blob has one text."""
    try:
        blob = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
    return blob if _encode(blob) == text else b""
