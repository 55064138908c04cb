"""Where the HTTP face listens, as the configuration says it: what is taken, and what stops the start."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from bisd.address import Address, parse_listen
from bisd.config import Config, HttpConfig, load
from bisd.errors import ConfigurationError

LONGEST = "/run/" + "x" * 102


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8747", Address(ip_address("127.0.0.1"), 8747)),
        ("127.0.0.1:0", Address(ip_address("127.0.0.1"), 0)),
        ("[::1]:8747", Address(ip_address("::1"), 8747)),
        ("10.1.2.3:65535", Address(ip_address("10.1.2.3"), 65535)),
        ("unix:/run/bisd/shop.sock", Path("/run/bisd/shop.sock")),
        (f"unix:{LONGEST}", Path(LONGEST)),
        ("off", None),
    ],
)
def test_places_are_taken_as_they_are_written(text: str, expected: Address | Path | None) -> None:
    """An address and a port, the path of a socket of 107 bytes at most, or none; and an address is shown as it was written."""
    assert expected == parse_listen(text)
    assert not isinstance(expected, Address) or text == str(expected)


@pytest.mark.parametrize(
    "text",
    [
        "", "on", "OFF", "8747", 8747, True, None, [], "127.0.0.1", "127.0.0.1:", ":8747", "*:8747", "localhost:8747",
        "127.1:8747", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:8747 ", "127.0.0.1:\u0661", "127.0.0.01:8747", "::1:8747",
        "[::1]", "[127.0.0.1:1", "[fe80::1%eth0]:8747", "http://127.0.0.1:8747", "unix:", "unix:bisd.sock", "unix:/a\0b", 
        f"unix:{LONGEST}x",
        "unix:/run/" + "\xe9" * 52, "/run/bisd.sock",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(text: object) -> None:
    """Nothing is guessed, and no name is resolved."""
    with pytest.raises(ValueError, match=r"^must be an address and a port, like|^the path of a socket has 107 bytes at most"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"BISD_HTTP_LISTEN": "8747"}, "http.listen: must be an address and a port"),
        ({"BISD_HTTP_LISTEN": "0.0.0.0:8747"}, "http.listen: 0.0.0.0:8747 can be reached from other machines"),
        ({"BISD_HTTP_LISTEN": "[::]:8747"}, "http.listen: [::]:8747 can be reached from other machines"),
        ({"BISD_HTTP_LISTEN": "10.1.2.3:8747"}, "http.listen: 10.1.2.3:8747 can be reached from other machines"),
        ({"BISD_HTTP_LISTEN": "[::ffff:127.0.0.1]:1"}, "http.listen: [::ffff:7f00:1]:1 can be reached from other machines"),
        ({"BISD_HTTP_PUBLIC_URL": "bisd.example.com"}, "http.public_url: must be a URL without a path"),
        ({"BISD_HTTP_PUBLIC_URL": "https://bisd.example.com/hooks"}, "http.public_url: must be a URL without a path"),
        ({"BISD_HTTP_PUBLIC_URL": "https://me@bisd.example.com"}, "http.public_url: must be a URL without a path"),
        ({"BISD_HTTP_TOKEN": "x"}, "BISD_HTTP_TOKEN: is no setting; did you mean BISD_HTTP_TOKEN_FILE?"),
    ],
)
def test_a_wrong_http_section_is_named(variables: dict[str, str], key: str) -> None:
    """By its key, with what would be right."""
    with pytest.raises(ConfigurationError) as raised:
        load(None, variables)
    assert [key] == [fault[: len(key)] for fault in raised.value.faults]


def test_an_address_for_others_is_taken_with_a_token() -> None:
    """And the loopback addresses and a socket without one."""
    everywhere = load(None, {"BISD_HTTP_LISTEN": "0.0.0.0:8747", "BISD_HTTP_TOKEN_FILE": "/etc/bisd/token"}).http
    assert HttpConfig(Address(ip_address("0.0.0.0"), 8747), Path("/etc/bisd/token")) == everywhere  # noqa: S104
    for text in ("127.1.2.3:1", "[::1]:1", "unix:/run/bisd.sock"):
        assert load(None, {"BISD_HTTP_LISTEN": text}).http.token_file is None
    assert "127.0.0.1:8747" == str(Config().http.listen)
