"""Certificate authorities that a deployment trusts besides the system's: a PEM file, read again at every reload."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bisd import files

# All authorities of the web are a quarter of a megabyte.
_MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Authorities:
    """`der`: their certificates, one after the other, as OpenSSL takes them. `expired`: when those ended that have."""

    der: bytes
    expired: list[datetime]


def read(path: Path) -> Authorities:
    """Raises ValueError with what is the matter, to be read behind the file's name."""
    octets = files.read(path, _MOST_BYTES)
    if not octets.strip():
        raise ValueError("is empty: it must hold certificates, in PEM")
    if b"PRIVATE KEY-----" in octets:
        raise ValueError("holds a private key, which has no business here: leave only certificates in it")
    try:
        certificates = x509.load_pem_x509_certificates(octets)
    except ValueError:
        raise ValueError("holds no certificates in PEM, or something that is not one") from None
    now = datetime.now(UTC)
    expired = [one.not_valid_after_utc for one in certificates if one.not_valid_after_utc < now]
    return Authorities(b"".join(one.public_bytes(Encoding.DER) for one in certificates), expired)
