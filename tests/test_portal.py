"""What is signed for pages: it opens what it was signed for, until then, and nothing else does."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as some

from bisd.admin.portal import Grant, Signer, link

TOKENS = some.binary(min_size=16, max_size=64)
GRANTS = some.builds(Grant, some.none() | some.integers(1, 2**63 - 1), some.integers(1, 10**12 - 1))
NONCES = some.text("abcXYZ019_-", max_size=43)


@given(TOKENS, GRANTS, NONCES)
def test_what_was_signed_is_granted_until_its_time_is_over(token: bytes, grant: Grant, nonce: str) -> None:
    """By whoever has the token; from that second on it is nothing."""
    text = Signer(token, "session").sign(grant, nonce)
    again = Signer(token, "session")
    assert (grant, None) == (again.verify(text, grant.until - 0.001), again.verify(text, grant.until))


@given(TOKENS, GRANTS, some.data())
def test_one_changed_character_makes_it_nothing(token: bytes, grant: Grant, data: some.DataObject) -> None:
    """Wherever it is, and whatever takes its place, nothing or more too."""
    signer = Signer(token, "portal link")
    text = signer.sign(grant, "nonce")
    place = data.draw(some.integers(0, len(text) - 1))
    instead = data.draw(some.text(max_size=2).filter(lambda other: other != text[place]))
    assert signer.verify(text[:place] + instead + text[place + 1 :], 0) is None


@given(some.text())
def test_what_nobody_signed_is_nothing(text: str) -> None:
    """Whatever somebody sends in a cookie or a link."""
    assert Signer(b"0123456789abcdef", "session").verify(text, 0) is None


@given(TOKENS, TOKENS, GRANTS)
def test_neither_another_token_nor_another_purpose_opens(token: bytes, other: bytes, grant: Grant) -> None:
    """A link is no session, a session is no link, and with the operator's token all of them change."""
    text = Signer(token, "portal link").sign(grant)
    assert Signer(token, "session").verify(text, 0) is None
    assert (token == other) == (Signer(other, "portal link").verify(text, 0) == grant)


def test_a_link_can_be_written_and_read_as_any_url() -> None:
    """It has a host, a path and one parameter, whatever the base ends with."""
    grant, token = Grant(7, 2_000_000_000), b"0123456789abcdef"
    for base in ("https://bisd.example.com", "https://bisd.example.com/"):
        parts = urlsplit(link(base, token, grant))
        assert ("bisd.example.com", "/portal") == (parts.netloc, parts.path)
        assert grant == Signer(token, "portal link").verify(parse_qs(parts.query)["key"][0], 0)
