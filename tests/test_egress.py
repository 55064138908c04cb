"""Egress: which URLs and addresses may be reached. Everything here is written by somebody hostile; more of it in test_urls."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bisd.config import EgressConfig
from bisd.egress import Egress
from bisd.errors import UrlRefusedError

DEFAULT = Egress(EgressConfig())
PUBLIC = "93.184.215.14"

ACCEPTED = [
    "https://example.com/",
    "https://example.com/hook?a=1&b=%20c+d&e=%E2%9C%93",
    "https://EXAMPLE.com/Case/Is/Kept",
    "https://example.com/a/../b/./c//d/%2e%2e/%5a",
    "https://example.com/user@host:80/;x=[1]",
    "https://example.com:8443/x",
    "https://xn--bcher-kva.com/",
    "https://a-b.c_d.example.co.uk/",
    "https://1.example.com/",
    "https://example.com./",
    "https://localhost.example.com/",
    f"https://{PUBLIC}/",
    "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
    "https://[2606:4700::1111]:8443/x",
]

REFUSED = {
    "scheme": [
        "",
        "example.com",
        "//example.com/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "httpss://example.com/",
        "https:example.com",
        "https:/example.com/",
        "https:///example.com/",
        "https://",
        "xhttps://example.com/",
    ],
    "userinfo": [
        "https://user:password@example.com/",
        "https://user@example.com/",
        "https://@example.com/",
        "https://example.com@127.0.0.1/",
        "https://a:b@c@example.com/",
        "https://example.com:443@8.8.8.8/",
    ],
    "port": [
        "https://example.com:80/",
        "https://example.com:0/",
        "https://example.com:22/",
        "https://example.com:5432/",
        "https://example.com:65536/",
        "https://example.com:65979/",
        "https://example.com:4430000000000/",
        "https://example.com:-443/",
        "https://example.com:+443/",
        "https://example.com:/",
        "https://example.com:https/",
        "https://example.com:443:443/",
    ],
    "special IPv4": [
        "https://0.0.0.0/",
        "https://10.0.0.1/",
        "https://100.64.0.1/",
        "https://127.0.0.1/",
        "https://127.0.0.1:8443/",
        "https://127.255.255.254/",
        "https://168.63.129.16/metadata",
        "https://169.254.169.254/latest/meta-data/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
        "https://192.0.0.192/",
        "https://192.0.2.1/",
        "https://192.88.99.1/",
        "https://192.168.1.1/",
        "https://198.18.0.1/",
        "https://198.51.100.1/",
        "https://203.0.113.1/",
        "https://224.0.0.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
    ],
    "special IPv6": [
        "https://[::]/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        f"https://[::ffff:{PUBLIC}]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[64:ff9b:1::1]/",
        "https://[100::1]/",
        "https://[2001::1]/",
        "https://[2001:db8::1]/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a00:1::1]/",
        "https://[3fff::1]/",
        "https://[5f00::1]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/latest/meta-data/",
        "https://[fe80::1]/",
        "https://[fe80::1%eth0]/",
        "https://[fe80::1%25eth0]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
    ],
    "odd spelling": [
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0X7F.0.0.1/",
        "https://0x/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://127.0.0.1./",
        "https://8.8.8.8./",
        "https://8.8.8.08/",
        "https://127.0.0.0x1/",
        "https://example.0x7f/",
        "https://example.1/",
        "https://1.2.3.4.5/",
        "https://256.256.256.256/",
        f"https://[{PUBLIC}]/",
        "https://[example.com]/",
        "https://[::1/",
        "https://::1/",
        "https://::1]/",
        "https://[]/",
        "https://[[::1]]/",
        "https://[v1.x]/",
        "https://[1::2::3]/",
    ],
    "host": [
        "https://?q",
        "https://#f",
        "https://./",
        "https://../",
        "https://.example.com/",
        "https://example..com/",
        "https://-example.com/",
        "https://example-.com/",
        "https://exa*mple.com/",
        "https://exa'mple.com/",
        "https://example.com,example.org/",
        "https://example.com;/",
        "https://" + "a" * 64 + ".com/",
        "https://" + "a." * 127 + "com/",
    ],
    "characters": [
        "https://example.com\\@127.0.0.1/",
        "https:\\\\example.com\\",
        "https://127.0.0.1\\.example.com/",
        " https://example.com/",
        "https://example.com/ ",
        "https://example.com/a b",
        "https://exa\tmple.com/",
        "https://example.com/\r\nHost: evil",
        "https://example.com/\n",
        "https://example.com/\x00",
        "https://example.com/\x7f",
        "https://example.com/\x1b[2J",
        "https://bücher.example/",
        "https://example.com/é",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "https://example。com/",
        "https://example.com/\u202e",
        "https://example.com/\ud800",
        "https://example.com/<script>",
        'https://example.com/"',
        "https://example.com/{a}",
        "https://example.com/a|b^c`d",
    ],
    "percent sign": ["https://example.com/%", "https://example.com/a%zz", "https://example.com/?a=%4", "https://example.com?%"],
    "name for use inside": [
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST:8443/",
        "https://www.localhost/",
        "https://intranet/",
        "https://com./",
        "https://db.internal/",
        "https://printer.local./",
        "https://router.home.arpa/",
    ],
    "percent in host": ["https://%31%32%37.0.0.1/", "https://example%2ecom/", "https://127.0.0.1%00.example.com/"],
}


@pytest.mark.parametrize("raw", ACCEPTED)
def test_accepted_url_is_requested_byte_for_byte(raw: str) -> None:
    """What the merchant wrote is what is asked for: nothing is normalised, quoted or unquoted."""
    permitted = DEFAULT.permit_url(raw)
    path = "/" + raw.removeprefix("https://").partition("/")[2]
    assert (raw, path) == (str(permitted.url), permitted.target)


@pytest.mark.parametrize("raw", ["https://example.com/a?b#c", "https://example.com/a?b#", "https://example.com/a?b#@x\x27"])
def test_fragment_is_not_sent(raw: str) -> None:
    """A fragment is not part of a request, and all before it is."""
    permitted = DEFAULT.permit_url(raw)
    assert ("https://example.com/a?b", "/a?b") == (str(permitted.url), permitted.target)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("https://example.com", "/"),
        ("https://example.com?a=1", "/?a=1"),
        ("https://example.com:443/x", "/x"),
        ("https://example.com:8443", "/"),
    ],
)
def test_url_without_path_asks_for_the_root(raw: str, target: str) -> None:
    """HTTP cannot ask for less than '/', and a default port need not be said."""
    assert target == DEFAULT.permit_url(raw).target


@pytest.mark.parametrize(
    "raw", [pytest.param(raw, id=f"{kind}-{n}") for kind in REFUSED for n, raw in enumerate(REFUSED[kind])]
)
def test_refused_url(raw: str) -> None:
    """Refused in its raw form, before any other parser sees it, with a reason."""
    with pytest.raises(UrlRefusedError) as refused:
        DEFAULT.permit_url(raw)
    assert refused.value.data["reason"]


_PIECES = st.sampled_from(
    ["https://", "http://", "[", "]", "@", ":", "/", "?", "#", "%", "\\", ".", "127.0.0.1", "::", "::1", "8.8.8.8",
     "2606:", "example.com", "xn--", "443", "0x7f", "-", "_", "*", " ", "\t", "\x00", "é", "\uff11"]
)  # fmt: skip


@given(raw=st.one_of(st.text(), st.lists(_PIECES, max_size=8).map("".join).map("https://".__add__)))
@example(raw="https://[8.8.8.8]/")
@example(raw="https://[2606:4700::8.8.8.8]/")
@example(raw="https://xn--/")
@example(raw="https://example.com:" + "9" * 5000)
def test_any_text_is_permitted_or_refused_and_nothing_else(raw: str) -> None:
    """Total: for whatever a merchant types there is a URL over TLS on a permitted port, or UrlRefusedError."""
    try:
        url, target = DEFAULT.permit_url(raw)
    except UrlRefusedError:
        return
    assert target.startswith("/")
    assert ("https", True, None, None) == (url.scheme, url.port in (443, 8443), url.user, url.password)


@pytest.mark.parametrize(
    ("config", "raw", "permitted"),
    [
        (EgressConfig(), "http://example.com:443/", False),
        (EgressConfig(allow_http=True), "http://example.com:443/", True),
        (EgressConfig(allow_http=True), "http://example.com/", False),
        (EgressConfig(allow_http=True, ports=[(80, 80)]), "http://example.com/", True),
        (EgressConfig(allow_http=True, ports=[(80, 80)]), "https://example.com/", False),
        (EgressConfig(allow_http=True, ports=[(80, 80)]), "ftp://example.com:80/", False),
        (EgressConfig(ports=[(8000, 8099)]), "https://example.com:7999/", False),
        (EgressConfig(ports=[(8000, 8099)]), "https://example.com:8000/", True),
        (EgressConfig(ports=[(8000, 8099)]), "https://example.com:8099/", True),
        (EgressConfig(ports=[(8000, 8099)]), "https://example.com:8100/", False),
        (EgressConfig(ports=[(1, 65535)]), "https://example.com:0/", False),
        (EgressConfig(ports=[(1, 65535)]), "https://example.com:65536/", False),
        (EgressConfig(allow=[ip_network("10.1.0.0/16")]), "https://10.1.2.3/", True),
        (EgressConfig(allow=[ip_network("10.1.0.0/16")]), "https://10.2.0.1/", False),
        (EgressConfig(allow=[ip_network("10.1.0.0/16")]), "https://[::ffff:10.1.2.3]/", False),
        (EgressConfig(allow=[ip_network("::1/128")]), "https://[::1]/", True),
        (EgressConfig(deny=[ip_network("93.184.0.0/16")]), f"https://{PUBLIC}/", False),
        (EgressConfig(deny=[ip_network("93.184.0.0/16")]), "https://8.8.8.8/", True),
        (EgressConfig(deny=[ip_network("2606::/16")]), "https://[2606:4700::1111]/", False),
        (EgressConfig(allow=[ip_network("10.0.0.0/8")], deny=[ip_network("10.1.0.0/16")]), "https://10.1.0.1/", False),
        (EgressConfig(allow=[ip_network("10.0.0.0/8")], deny=[ip_network("10.1.0.0/16")]), "https://10.2.0.1/", True),
        (EgressConfig(allow=[ip_network("0.0.0.0/0")]), "https://user@10.2.0.1/", False),
        (EgressConfig(), "https://erp.internal/", False),
        (EgressConfig(allow=[ip_network("10.1.0.0/16")]), "https://erp.internal/", True),
        (EgressConfig(allow=[ip_network("10.1.0.0/16")]), "https://erp/", True),
        (EgressConfig(allow=[ip_network("10.1.0.0/16")]), "https://127.1/", False),
        (EgressConfig(deny=[ip_network("10.1.0.0/16")]), "https://erp/", False),
        (EgressConfig(proxy="http://proxy.internal:3128"), "https://erp.internal/", False),
        (EgressConfig(proxy="http://proxy.internal:3128"), "https://10.1.2.3/", False),
        (EgressConfig(proxy="http://proxy.internal:3128"), "https://example.com/", True),
    ],
)
def test_configuration_decides(config: EgressConfig, raw: str, permitted: bool) -> None:
    """What the operator allows is allowed, what he denies is denied, and denied wins."""
    try:
        Egress(config).permit_url(raw)
        actual = True
    except UrlRefusedError:
        actual = False
    assert permitted == actual


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (str(IPv4Address(0)), "0.255.255.255"),
        ("10.0.0.0", "10.255.255.255"),
        ("100.64.0.0", "100.127.255.255"),
        ("127.0.0.0", "127.255.255.255"),
        ("168.63.129.16", "168.63.129.16"),
        ("169.254.0.0", "169.254.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.0.0.0", "192.0.0.255"),
        ("192.0.2.0", "192.0.2.255"),
        ("192.88.99.0", "192.88.99.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("198.18.0.0", "198.19.255.255"),
        ("198.51.100.0", "198.51.100.255"),
        ("203.0.113.0", "203.0.113.255"),
        ("224.0.0.0", "255.255.255.255"),
        ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
        ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_special_ranges_are_refused_to_their_very_edges(first: str, last: str) -> None:
    """Both ends of a special range are refused; the addresses next to it are not."""
    low, high = ip_address(first), ip_address(last)
    assert (False, False) == (DEFAULT.permits(low), DEFAULT.permits(high))
    outside = [type(low)(number) for number in (int(low) - 1, int(high) + 1) if 0 < number < 2**low.max_prefixlen]
    assert [True] * len(outside) == [DEFAULT.permits(address) for address in outside]
