"""The configuration: what is not said has a default, what is wrong is told at once, and a guess is never made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisd.config import (
    Config,
    DatabaseConfig,
    DeliveryConfig,
    EgressConfig,
    RetryConfig,
    load,
    secret,
)
from bisd.errors import ConfigurationError
from bisd.values import parse_duration, parse_ports

HIDDEN = "hunter2"
Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "bisd.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def faults(path: Path | None, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load(path, environment or {})
    assert 2 == raised.value.exit_code
    assert "\n".join(raised.value.faults) == str(raised.value)
    return raised.value.faults


def keys(found: list[str]) -> list[str]:
    return [fault.partition(":")[0] for fault in found]


def test_defaults() -> None:
    """Without a file and without variables, the documented defaults serve."""
    config = load(None, {"PATH": "/bin", "BISD_CONFIG": "/etc/bisd.toml"})
    assert Config() == config
    assert (None, None) == (config.database.dsn, config.database.dsn_file)
    assert ([200], timedelta(seconds=15), timedelta(days=4)) == (
        config.delivery.success,
        config.delivery.timeout,
        config.delivery.expires_after,
    )
    assert (False, [(443, 443), (8443, 8443)]) == (config.egress.allow_http, config.egress.ports)
    assert (10, 11) == (len(config.retry.schedule), config.retry.max_attempts)


def test_an_empty_file_changes_nothing(write: Write) -> None:
    """Every key is optional."""
    assert Config() == load(write("# nothing\n[database]\n"), {})


def test_the_file_is_taken(write: Write) -> None:
    """Every kind of value: durations, networks, ports and ranges, lists, numbers, files."""
    path = write(
        """
        [database]
        dsn = "postgresql://bisd@a,b/shop"
        [delivery]
        success = [200, 204]
        timeout = "1.5m"
        [retry]
        schedule = ["500ms", "2w"]
        factor = 3
        [egress]
        allow_http = true
        allow = ["10.0.0.0/8", "fd00::/8"]
        ports = [443, "8000-8099"]
        ca_file = "/etc/ca.pem"
        """
    )
    expected = Config(
        database=DatabaseConfig(dsn="postgresql://bisd@a,b/shop"),
        delivery=DeliveryConfig(success=[200, 204], timeout=timedelta(seconds=90)),
        retry=RetryConfig(schedule=[timedelta(milliseconds=500), timedelta(weeks=2)], factor=3.0),
        egress=EgressConfig(
            allow_http=True,
            allow=[ip_network("10.0.0.0/8"), ip_network("fd00::/8")],
            ports=[(443, 443), (8000, 8099)],
            ca_file=Path("/etc/ca.pem"),
        ),
    )
    assert expected == load(path, {})


def test_every_fault_is_reported_at_once_with_its_key(write: Write) -> None:
    """Nobody has to start it ten times to find ten faults."""
    path = write(
        """
        [database]
        dsn = "mysql://db"
        [delivery]
        timeout = 15
        success = [200, 302]
        max_in_flight = "many"
        [retry]
        schedule = ["1s", "soon"]
        jitter = nan
        max_attempts = 0
        [egress]
        allow = ["10.1.2.3/8"]
        ports = [0]
        allow_http = 1
        [log]
        level = "loud"
        """
    )
    assert [
        "BISD_NONSENSE",
        "database.dsn",
        "delivery.max_in_flight",
        "delivery.success.1",
        "delivery.timeout",
        "egress.allow.0",
        "egress.allow_http",
        "egress.ports.0",
        "log.level",
        "retry.jitter",
        "retry.max_attempts",
        "retry.schedule.1",
    ] == keys(faults(path, {"BISD_NONSENSE": "1"}))


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[retri]\n", "retri", "retry"),
        ("[delivery]\ntime_out = '5s'\n", "delivery.time_out", "timeout"),
        ("[database]\ndns = 'x'\n", "database.dns", "dsn"),
        ("delivry = 1\n", "delivry", "delivery"),
    ],
)
def test_unknown_keys_stop_the_start_and_name_the_nearest(write: Write, text: str, key: str, nearest: str) -> None:
    """A misspelt key is not a key left out."""
    assert [f"{key}: is no setting; did you mean {nearest}?"] == faults(write(text))


def test_an_unknown_key_with_nothing_near_is_just_unknown(write: Write) -> None:
    """No guess is better than a wild one."""
    assert ["delivery.zzz: is no setting"] == faults(write("[delivery]\nzzz = 1\n"))


def test_the_environment_wins(write: Write) -> None:
    """BISD_SECTION_KEY, written as in TOML, or as bare text where TOML would have quotes."""
    path = write('[delivery]\ntimeout = "1s"\nconnect_timeout = "1s"\n')
    environment = {
        "BISD_DATABASE_DSN": "postgres://db/shop",
        "BISD_DELIVERY_TIMEOUT": "20s",
        "BISD_DELIVERY_SUCCESS": "[200, 202]",
        "BISD_RETRY_MAX_ATTEMPTS": "5",
        "BISD_RETRY_SCHEDULE": '["1s", "2s"]',
        "BISD_EGRESS_ALLOW_HTTP": "true",
        "BISD_LOG_LEVEL": '"debug"',
    }
    config = load(path, environment)
    assert ("postgres://db/shop", timedelta(seconds=20), timedelta(seconds=1), [200, 202]) == (
        config.database.dsn,
        config.delivery.timeout,
        config.delivery.connect_timeout,
        config.delivery.success,
    )
    assert (5, [timedelta(seconds=1), timedelta(seconds=2)], True, "debug") == (
        config.retry.max_attempts,
        config.retry.schedule,
        config.egress.allow_http,
        config.log.level,
    )


@pytest.mark.parametrize("section", [section.name for section in fields(Config)])
def test_every_key_can_come_from_the_environment(section: str) -> None:
    """Every key is read: a value that cannot be right is refused under the key's name."""
    names = [key.name for key in fields(getattr(Config(), section)) if not key.name.endswith("_file")]
    environment = {f"BISD_{section}_{name}".upper(): "{nonsense = []}" for name in names}
    assert {f"{section}.{name}" for name in names} <= {".".join(key.split(".")[:2]) for key in keys(faults(None, environment))}


def test_unknown_variables_are_refused() -> None:
    """A misspelt variable is not a variable left out; others' variables are not ours."""
    found = faults(None, {"BISD_DELIVERY_TIMEOT": "5s", "BISD_": "", "BISDX": "1", "XBISD_LOG_LEVEL": "1"})
    assert ["BISD_: is no setting", "BISD_DELIVERY_TIMEOT: is no setting; did you mean BISD_DELIVERY_TIMEOUT?"] == found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[database]\ndsn = 'postgresql://db'\ndsn_file = '/x'", "database.dsn"),
        ("[keys]\nretired_files = ['/x']", "keys.retired_files"),
        ("[delivery]\ntimeout = '2s'\nconnect_timeout = '3s'", "delivery.connect_timeout"),
        ("[retry]\nbase = '2s'\nmax = '1s'", "retry.base"),
        ("[delivery]\nmax_in_flight = 5\nmax_in_flight_per_webhook = 6", "delivery.max_in_flight_per_webhook"),
    ],
)
def test_keys_that_contradict_each_other(write: Write, text: str, fault: str) -> None:
    """What is right by itself can be wrong together."""
    assert [fault] == keys(faults(write(text)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("15s", 15),
        ("1.5h", 5400),
        ("5m", 300),
        ("30d", 2592000),
        ("2w", 1209600),
        ("0s", 0),
        ("3650d", 315360000),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Every unit, and fractions."""
    assert timedelta(seconds=seconds) == parse_duration(text)


@given(
    amount=st.integers(0, 999_999_999),
    unit=st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]),
)
def test_durations_round_trip(amount: int, unit: tuple[str, float]) -> None:
    """What is written is what is read, to the microsecond, up to ten years; more is refused."""
    name, factor = unit
    if amount * factor > 3650 * 86400:
        with pytest.raises(ValueError, match="ten years"):
            parse_duration(f"{amount}{name}")
    else:
        assert timedelta(seconds=amount * factor) == parse_duration(f"{amount}{name}")


@given(whole=st.integers(0, 3650), micro=st.integers(0, 999_999))
def test_fractions_round_trip(whole: int, micro: int) -> None:
    """Microseconds are kept."""
    assert timedelta(seconds=whole, microseconds=micro) == parse_duration(f"{whole}.{micro:06}s")


_NO_DURATIONS = [
    "",
    "5",
    "s",
    "-5s",
    "+5s",
    "5 s",
    " 5s",
    "5s\n",
    "5S",
    "5y",
    "1e3s",
    ".5s",
    "5.s",
    "infs",
    "nans",
    "5s5m",
]


@pytest.mark.parametrize("value", [*_NO_DURATIONS, "\u0665s", "9999999999s", "999999999w", 5, 5.0, True, None, ["5s"]])
def test_what_is_no_duration(value: object) -> None:
    """A number without a unit is a guess, and so is everything else."""
    with pytest.raises(ValueError, match="must be"):
        parse_duration(value)


@given(first=st.integers(-5, 70000), last=st.integers(-5, 70000))
def test_ports(first: int, last: int) -> None:
    """A port, or a range in order, between 1 and 65535; nothing else."""
    expected: object = (first, last) if 1 <= first <= last <= 65535 else ValueError
    try:
        actual: object = parse_ports(f"{first}-{last}")
    except ValueError:
        actual = ValueError
    assert expected == actual


@pytest.mark.parametrize("value", ["443", "", "1-2-3", "a-b", "1 - 2", True, 443.0, None, 0, 65536])
def test_what_is_no_port(value: object) -> None:
    """A port is a number, not text; true is not port 1."""
    with pytest.raises(ValueError, match="port"):
        parse_ports(value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf[log]\n",
        "[log]\n".encode("utf-16"),
        "[log]\n".encode("utf-16-le"),
        b"[log]\nlevel = \"info\x00\"\n",
        b"\x00",
        b"\xff",
        b"[log\n",
        b"[log]\nlevel = 'info'\nlevel = 'info'\n",
        b"#" * ((1 << 20) + 1),
        b"a = " + b"[" * 10_000,
        b"a = " + b"1" * 5_000,
    ],
    ids=["BOM", "UTF-16", "UTF-16LE", "NUL in text", "NUL", "not UTF-8", "not TOML", "key twice", "too large",
         "nested too deep", "number too long"],
)  # fmt: skip
def test_what_is_no_configuration_is_one_fault(write: Write, content: bytes) -> None:
    """A file that cannot be read as a configuration is told by its name, whatever is in it."""
    path = write(content)
    assert [str(path)] == keys(faults(path))


def test_what_is_no_file_is_one_fault(tmp_path: Path) -> None:
    """Missing, a directory, behind a file, an impossible name."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing.toml", tmp_path, tmp_path / "file" / "x", tmp_path / ("x" * 300), Path("a\0b")):
        assert [str(path)] == keys(faults(path))


@pytest.mark.parametrize("text", ["[" * 10_000, "1" * 5_000], ids=["nested too deep", "number too long"])
def test_a_variable_that_cannot_be_read_is_one_fault(text: str) -> None:
    """A variable's value is text of anybody: it can be wrong, it cannot break the start in any other way."""
    assert ["delivery.timeout"] == keys(faults(None, {"BISD_DELIVERY_TIMEOUT": text}))


@pytest.mark.parametrize(
    "text",
    [
        f"[database]\ndsn = 'mysql://bisd:{HIDDEN}@db/shop'",
        f"[database]\ndsn = ['postgresql://bisd:{HIDDEN}@db/shop']",
        f"[database]\ndsn = {{url = 'postgresql://bisd:{HIDDEN}@db/shop'}}",
        f"[database]\ndns = 'postgresql://bisd:{HIDDEN}@db/shop'",
        f"[database]\ndsn = 'postgresql://bisd:{HIDDEN}@db/shop'\ndsn_file = '/x'",
        f"[database]\ndsn = 'postgresql://bisd:{HIDDEN}@db/shop",
        f"database = 'postgresql://bisd:{HIDDEN}@db/shop'",
        f"[[database]]\ndsn = 'postgresql://bisd:{HIDDEN}@db/shop'",
    ],
)
def test_a_password_is_never_shown(write: Write, text: str) -> None:
    """The fault is told, the value of the dsn is not: faults end up in logs."""
    assert not [fault for fault in faults(write(text)) if HIDDEN in fault]


def test_a_password_in_a_variable_is_never_shown() -> None:
    """The same for variables, rightly spelt or not."""
    environment = {
        "BISD_DATABASE_DSN": f"mysql://bisd:{HIDDEN}@db",
        "BISD_DATABASE_DNS": f"postgresql://bisd:{HIDDEN}@db",
    }
    found = faults(None, environment)
    assert ["BISD_DATABASE_DNS", "database.dsn"] == keys(found)
    assert not [fault for fault in found if HIDDEN in fault]


@pytest.mark.parametrize("master", ["5A" * 32, "A1" * 21 + "A="])
@pytest.mark.parametrize("text", ["master_file = '{}'", "master_file = ['{}']", "retired_files = ['{}']", "master = '{}'"])
def test_a_master_key_is_never_shown(write: Write, text: str, master: str) -> None:
    """Written where the name of its file belongs, a master key is refused and not repeated."""
    found = faults(write("[keys]\n" + text.format(master)))
    assert ([text.partition(" ")[0]], []) == (
        [key.split(".")[1] for key in keys(found)],
        [fault for fault in found if master in fault],
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"postgresql://db", "postgresql://db"),
        (b"postgresql://db\n", "postgresql://db"),
        (b" a \n\n", " a \n"),
        ("é".encode(), "é"),
    ],
)
def test_secret_is_the_file_less_one_newline(tmp_path: Path, content: bytes, expected: str) -> None:
    """Editors end a file with a newline; blanks may belong to a key."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert expected == secret(path, "database.dsn_file")


def test_secret_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, empty, not text: told with the key and the file, never with what is in it."""
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_bytes(b"\n")
    binary.write_bytes(HIDDEN.encode() + b"\xff")
    for path in (tmp_path / "missing", tmp_path, empty, binary):
        with pytest.raises(ConfigurationError) as raised:
            secret(path, "database.dsn_file")
        assert (1, True, True, False) == (
            len(raised.value.faults),
            str(raised.value).startswith("database.dsn_file: "),
            str(path) in str(raised.value),
            HIDDEN in str(raised.value),
        )
