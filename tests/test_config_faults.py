"""Every bad input of a configuration file, and of the files that it names: refused by its key, in words that say what would be
right, or taken as it is meant. Nothing hangs, and no secret is repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bisd import log, scrutiny
from bisd.config import Config, load
from bisd.dsn import parse_dsn
from bisd.errors import ConfigurationError

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
    """What the daemon says of it."""
    with pytest.raises(ConfigurationError) as raised:
        scrutiny.read(path, environment or {})
    return raised.value.faults


def doubts(config: Config, path: Path | None = None) -> list[str]:
    return [doubt.key for doubt in scrutiny.doubts(config, path)]


def _certificate(until: timedelta) -> tuple[bytes, bytes]:
    """A certificate that ends so long from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Some Authority")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + until)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(encoding), private


VALID, KEY = _certificate(timedelta(days=30))
EXPIRED, _ = _certificate(timedelta(days=-1))


@pytest.mark.parametrize(
    "content",
    ["", "\n", "# nothing\r\n", "[delivery]\r\ntimeout = '15s'\r\n", "[delivery]\n\ttimeout\t=\t'15s'\t\n"],
    ids=["empty", "newline", "CRLF comment", "CRLF", "tabs"],
)
def test_what_changes_nothing(write: Write, content: str) -> None:
    """An empty file is a configuration, and lines may end and be indented as editors like it."""
    assert Config() == scrutiny.read(write(content.encode()), {})


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _socket_like(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


NO_FILES = [
    (lambda path: None, "cannot be read: No such file or directory"),
    (_directory, "cannot be read: it is not a regular file"),
    (_fifo, "cannot be read: it is not a regular file"),
    (_socket_like, "cannot be read: it is not a regular file"),
    (_loop, "cannot be read: Too many levels of symbolic links"),
    (_huge, "has more than {most} bytes: it is not what it should be"),
]
NO_FILE_NAMES = ["missing", "directory", "FIFO", "device", "symlink loop", "1 GB"]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("make", "fault"), NO_FILES, ids=NO_FILE_NAMES)
@pytest.mark.parametrize("key", ["", "database.dsn_file", "keys.master_file", "keys.retired_files.0", "egress.ca_file"])
def test_what_is_no_file(make: Callable[[Path], None], fault: str, key: str, tmp_path: Path, write: Write) -> None:
    """The configuration itself, or a file that it names: one fault, at once, that says what it is instead."""
    file = tmp_path / "file"
    make(file)
    most = 4 << 20 if key == "egress.ca_file" else 1 << 20
    if key:
        section, name, *number = key.split(".")
        value = json.dumps([str(file)] if number else str(file))
        others = {"keys.retired_files.0": f"master_file = {json.dumps(str(_master(tmp_path)))}\n"}
        path = write(f"[{section}]\n{others.get(key, '')}{name} = {value}\n")
    found = faults(path if key else file)
    said = f"{file} {fault}" if key else fault
    assert [f"{key or file}: {said.format(most=most)}"] == [one.partition("; `openssl")[0] for one in found]


def _master(directory: Path) -> Path:
    file = directory / "master"
    file.write_text("5a" * 32)
    return file


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\xef\xbb\xbf[log]\n", "begins with a byte order mark: save it without one, as plain UTF-8"),
        ("[log]\n".encode("utf-16"), "is not UTF-8"),
        ("[log]\nlevel = 'é'".encode("latin-1"), "is not UTF-8"),
        (b"[log]\nlevel = \"a\x00\"\n", "is not TOML: Illegal character '\\x00' (at line 2, column 11)"),
        (b"[log]\nlevel = 'info'\nlevel = 'info'\n", "is not TOML: Cannot overwrite a value (at line 3, column 15)"),
        (b"[log]\n[log]\n", "is not TOML: Cannot declare ('log',) twice (at line 2, column 5)"),
        (b"[egress]\nallow_http = yes\n", "is not TOML: Invalid value (at line 2, column 14)"),
        (b"[delivery]\ntimeout = 15s\n",
         "is not TOML: Expected newline or end of document after a statement (at line 2, column 13)"),
    ],
    ids=["BOM", "UTF-16", "latin-1", "NUL", "key twice", "table twice", "bare yes", "duration without quotes"],
)  # fmt: skip
def test_what_is_no_toml(write: Write, content: bytes, fault: str) -> None:
    """It is told by the file's name, with the line where there is one."""
    path = write(content)
    assert [f"{path}: {fault}"] == faults(path)


DURATION = 'must be a duration in quotes, like "15s", "5m", "12h" or "30d"'


@pytest.mark.parametrize(
    ("section", "value", "fault"),
    [
        ("delivery", "max_in_flight = '15'", "max_in_flight: input should be a valid integer (it is '15')"),
        ("delivery", "max_in_flight = 15.0", "max_in_flight: input should be a valid integer (it is 15.0)"),
        ("delivery", "max_in_flight = true", "max_in_flight: input should be a valid integer (it is True)"),
        ("delivery", "max_in_flight = 0", "max_in_flight: input should be greater than or equal to 1 (it is 0)"),
        ("delivery", "max_in_flight = 1000000000",
         "max_in_flight: input should be less than or equal to 50000 (it is 1000000000)"),
        ("delivery", "timeout = 15", f"timeout: {DURATION} (it is 15)"),
        ("delivery", "timeout = true", f"timeout: {DURATION} (it is True)"),
        ("delivery", "timeout = '-1s'", f"timeout: {DURATION} (it is '-1s')"),
        ("delivery", "timeout = 'inf'", f"timeout: {DURATION} (it is 'inf')"),
        ("delivery", "timeout = inf", f"timeout: {DURATION} (it is inf)"),
        ("delivery", "timeout = 'nans'", f"timeout: {DURATION} (it is 'nans')"),
        ("delivery", "timeout = nan", f"timeout: {DURATION} (it is nan)"),
        ("delivery", "timeout = '1e30s'", f"timeout: {DURATION} (it is '1e30s')"),
        ("delivery", f"timeout = '1{'0' * 30}s'", f"timeout: {DURATION} (it is '1{'0' * 30}s')"),
        ("delivery", "timeout = '99999d'", "timeout: must be at most ten years (it is '99999d')"),
        ("delivery", "timeout = '0s'", "timeout: must be longer than nothing (it is '0s')"),
        ("delivery", "timeout = '1s'", "connect_timeout: is longer than delivery.timeout, which covers the whole attempt"),
        ("delivery", "success = []", "success: list should have at least 1 item after validation, not 0 (it is [])"),
        ("delivery", "success = [302]", "success.0: input should be less than or equal to 299 (it is 302)"),
        ("retry", "schedule = []", "schedule: list should have at least 1 item after validation, not 0 (it is [])"),
        ("retry", f"schedule = {['1s'] * 10_000}",
         f"schedule: list should have at most 100 items after validation, not 10000 (it is {str(['1s'] * 20)[:80]}...)"),
        ("retry", "schedule = ['1s', '-1s']", f"schedule.1: {DURATION} (it is '-1s')"),
        ("retry", "max_attempts = 0", "max_attempts: input should be greater than or equal to 1 (it is 0)"),
        ("retry", "factor = '2'", "factor: input should be a valid number (it is '2')"),
        ("retry", "jitter = true", "jitter: input should be a valid number (it is True)"),
        ("retry", "jitter = inf", "jitter: input should be less than or equal to 1 (it is inf)"),
        ("egress", "ports = [0]", "ports.0: ports lie between 1 and 65535 (it is 0)"),
        ("egress", "ports = [65536]", "ports.0: ports lie between 1 and 65535 (it is 65536)"),
        ("egress", "ports = ['443']",
         'ports.0: must be a port, like 443, or a range in quotes, like "8000-8099" (it is \'443\')'),
        ("egress", "allow = ['10.0.0.1/8']",
         "allow.0: must be a network, like \"10.1.0.0/16\": 10.0.0.1/8 has host bits set (it is '10.0.0.1/8')"),
        ("egress", "allow = ['fe80::%eth0/10']",
         "allow.0: must be a network in quotes, like \"10.1.0.0/16\" (it is 'fe80::%eth0/10')"),
        ("egress", "allow = ['fe80::/10%eth0']",
         "allow.0: must be a network in quotes, like \"10.1.0.0/16\" (it is 'fe80::/10%eth0')"),
        ("egress", "allow = ['0.0.0.0/0']",
         "allow.0: is every address there is, those of your own hosts among them: name the networks of your receivers "
         "(it is '0.0.0.0/0')"),
        ("egress", "allow = ['::/0']",
         "allow.0: is every address there is, those of your own hosts among them: name the networks of your receivers "
         "(it is '::/0')"),
        ("egress", "ca_file = ''", "ca_file: must be the path of a file, in quotes (it is '')"),
        ("egress", "proxy = 'http://me:hunter2@proxy:3128'",
         'proxy: must be a URL with a port, and without a user name, like "http://proxy.example.com:3128"'),
        ("database", "pool_size = 0", "pool_size: input should be greater than or equal to 1"),
        ("database", "pool_size = 101", "pool_size: input should be less than or equal to 100"),
        ("log", "payloads = 1", "payloads: input should be a valid boolean (it is 1)"),
        ("log", "level = '${LEVEL}'", "level: input should be 'debug', 'info', 'warning' or 'error' (it is '${LEVEL}')"),
        ("delivery", "max_attempts = 3", "max_attempts: is no setting; it belongs to [retry]"),
        ("retry", "timeout = '3s'", "timeout: is no setting; it belongs to [delivery]"),
        ("delivery", "max = 3", "max: is no setting; it belongs to [retry]"),
        ("delivery", "time_out = '3s'", "time_out: is no setting; did you mean timeout?"),
    ],
)  # fmt: skip
def test_a_fault_says_what_would_be_right(write: Write, section: str, value: str, fault: str) -> None:
    """Key, what is wrong with it or what it should be, and what it is; no more than a line."""
    assert [f"{section}.{fault}"] == faults(write(f"[{section}]\n{value}\n"))


def test_a_key_outside_of_every_table_is_sent_home(write: Write) -> None:
    """It is where somebody forgot the table's head."""
    assert ["timeout: is no setting; it belongs to [delivery]"] == faults(write("timeout = '3s'\n"))


def test_every_kind_of_fault_is_reported_together(write: Write, tmp_path: Path) -> None:
    """A value, a contradiction between two others, an unknown key, an unknown variable and three files: all at once. What
    contradicts a value that is wrong in itself is not told: it may be right when that is."""
    path = write(
        """
        [database]
        dsn_file = "/nowhere/dsn"
        [keys]
        master_file = "/nowhere/master"
        [delivery]
        timeout = "soon"
        connect_timeout = "20s"
        max_in_flight = 5
        [retry]
        base = "2s"
        max = "1s"
        jitter = 7
        [egress]
        ca_file = "/nowhere/ca"
        [logs]
        """
    )
    assert [
        "BISD_RETRY_MAX_ATTEMPT",
        "database.dsn_file",
        "delivery.max_in_flight_per_webhook",
        "delivery.timeout",
        "egress.ca_file",
        "keys.master_file",
        "logs",
        "retry.base",
        "retry.jitter",
    ] == [fault.partition(":")[0] for fault in faults(path, {"BISD_RETRY_MAX_ATTEMPT": "5"})]


@pytest.mark.parametrize("text", ["/etc/${HOME}/ca.pem", "/etc/%s/ca.pem", "/etc/$HOME/~/ca.pem", "~/ca.pem"])
def test_nothing_is_interpolated(write: Write, text: str) -> None:
    """What looks like a variable is text, as it is in TOML."""
    assert Path(text) == load(write(f"[egress]\nca_file = '{text}'\n"), {}).egress.ca_file


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BISD_DELIVERY_TIMEOT", "BISD_DELIVERY_TIMEOUT"),
        ("BISD_DATABASE_DNS", "BISD_DATABASE_DSN"),
        ("BISD_DATABASE_POOLSIZE", "BISD_DATABASE_POOL_SIZE"),
        ("BISD_LOG_PAYLOAD", "BISD_LOG_PAYLOADS"),
    ],
)
def test_an_unknown_variable_is_told_with_the_nearest(name: str, nearest: str) -> None:
    """And not with its value, which may be a secret."""
    assert [f"{name}: is no setting; did you mean {nearest}?"] == faults(None, {name: HIDDEN})


URL = "must be a URL, like postgresql://bisd@db.example.com/shop"
NO_URL = "is not a URL: what is not a letter or a digit in a name or a password has to be %-encoded"
NO_HOST = "has a host that is neither a name, nor an address (of IPv6 in brackets), nor a directory"
NO_PORT = "has a port that is none: ports lie between 1 and 65535"


@pytest.mark.parametrize(
    ("dsn", "fault"),
    [
        ("", URL),
        ("mysql://db/shop", URL),
        ("host=db dbname=shop", URL),
        ("postgresql://bisd:hunter2?x@db/shop", NO_URL),
        ("postgresql://bisd:hunter2#x@db/shop", NO_PORT),
        ("postgresql://bisd:hunter2@x@db/shop", NO_HOST),
        ("postgresql://bisd@[::1/shop", NO_URL),
        ("postgresql://bisd@my db/shop", NO_HOST),
        ("postgresql://bisd@my%20db/shop", NO_HOST),
        ("postgresql://bisd@a,,b/shop", NO_HOST),
        ("postgresql://bisd@db:0/shop", NO_PORT),
        ("postgresql://bisd@db:65536/shop", NO_PORT),
        ("postgresql://bisd@db:port/shop", NO_PORT),
        ("postgresql://bisd@db/shop?port=x", NO_PORT),
        ("postgresql://bisd@db/shop?sslmod=require", "has a parameter that is not known; did you mean sslmode?"),
        ("postgresql://bisd@db/shop?hunter2=1", "has a parameter that is not known"),
        ("postgresql://bisd@db/shop?sslmode=on",
         "its sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full"),
    ],
)  # fmt: skip
def test_what_is_no_dsn(write: Write, tmp_path: Path, dsn: str, fault: str) -> None:
    """In the configuration as in a file: told by the key, and what would be right; no part of it is repeated."""
    assert [f"database.dsn: {fault}"] == faults(write(f"[database]\ndsn = {json.dumps(dsn)}\n"))
    file = tmp_path / "dsn"
    file.write_text(dsn + " \n" if not dsn else dsn + "\n")
    assert [f"database.dsn_file: {file} {fault}"] == faults(write(f"[database]\ndsn_file = '{file}'\n"))


@pytest.mark.parametrize(
    ("dsn", "local", "password"),
    [
        ("postgresql:///shop", True, False),
        ("postgresql://bisd@localhost/shop", True, False),
        ("postgresql://bisd:x@127.0.0.1:5433/shop", True, True),
        ("postgresql://bisd@[::1]:5433/shop", True, False),
        ("postgres://bisd:@/shop?host=/run/postgresql", True, False),
        ("postgresql://bisd@%2Frun%2Fpostgresql/shop", True, False),
        ("postgresql://bisd@a.example.com:5432,[2001:db8::1]:5433/shop?target_session_attrs=any", False, False),
        ("postgresql://bisd@localhost,b/shop?password=x", False, True),
        ("postgresql://db/shop?options=-csearch_path%3Dx&application_name=y", False, False),
    ],
)
def test_what_is_a_dsn(dsn: str, local: bool, password: bool) -> None:
    """Every way to name hosts, sockets and passwords."""
    parsed = parse_dsn(dsn)
    assert (local, password) == (parsed.is_local, parsed.has_password)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty: it must hold certificates, in PEM"),
        (b" \n\n", "is empty: it must hold certificates, in PEM"),
        (VALID + KEY, "holds a private key, which has no business here: leave only certificates in it"),
        (b"no certificate", "holds no certificates in PEM, or something that is not one"),
        (VALID[:-60] + VALID[-30:], "holds no certificates in PEM, or something that is not one"),
        (VALID.replace(b"CERTIFICATE", b"PUBLIC KEY"), "holds no certificates in PEM, or something that is not one"),
    ],
    ids=["empty", "blank", "a private key", "text", "damaged", "something else"],
)  # fmt: skip
def test_what_is_no_file_of_authorities(write: Write, tmp_path: Path, content: bytes, fault: str) -> None:
    """A file without certificates trusts nobody, and one with a key is a secret that lies about: neither is taken."""
    file = tmp_path / "ca.pem"
    file.write_bytes(content)
    assert [f"egress.ca_file: {file} {fault}"] == faults(write(f"[egress]\nca_file = '{file}'\n"))


@pytest.mark.parametrize("content", [VALID, VALID + EXPIRED, b"# the company's\r\n" + VALID.replace(b"\n", b"\r\n") + b"\xff"])
def test_what_is_a_file_of_authorities(write: Write, tmp_path: Path, content: bytes) -> None:
    """Several certificates, other lines between them, any ends of line. One that has expired is a doubt, and not a fault: with
    it at night no daemon would start."""
    file = tmp_path / "ca.pem"
    file.write_bytes(content)
    config = scrutiny.read(write(f"[egress]\nca_file = '{file}'\n"), {})
    assert (["egress.ca_file"] if EXPIRED in content else []) == doubts(config)


MASTER = "holds no master key: 32 random octets as 44 characters of base64 or 64 hexadecimal digits, no more"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is empty"),
        ("5a" * 31, MASTER),
        ("5a" * 33, MASTER),
        (" " + "5a" * 32, MASTER),
        ("5a" * 32 + "\n\n", MASTER),
        ("Wlpa" * 5 + " " + "Wlpa" * 5 + "Wlo=", MASTER),
        ("00" * 32, "holds nothing but zeros"),
        ("A" * 43 + "=", "holds nothing but zeros"),
        (b"\xff" * 32, "is not text in UTF-8"),
    ],
    ids=["empty", "31 bytes", "33 bytes", "blank", "two newlines", "blank inside", "zeros", "zeros in base64", "raw bytes"],
)
def test_what_is_no_master_key(write: Write, tmp_path: Path, content: str | bytes, fault: str) -> None:
    """Told by its key and its file; what is in it is not."""
    file = tmp_path / "master"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    found = faults(write(f"[keys]\nmaster_file = '{file}'\n"))
    assert [f"keys.master_file: {file} {fault}; `openssl rand -base64 32` makes one"] == found


@pytest.mark.parametrize("content", ["5a" * 32, "5A" * 32 + "\n", "Wlpa" * 10 + "Wlo="])
def test_what_is_a_master_key(write: Write, tmp_path: Path, content: str) -> None:
    """Hexadecimal digits or base64, with one newline or none."""
    file = tmp_path / "master"
    file.write_text(content)
    assert file == scrutiny.read(write(f"[keys]\nmaster_file = '{file}'\n"), {}).keys.master_file


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("[database]\ndsn = 'postgresql://bisd:hunter2@db/shop'", 0o644, ["database.dsn"]),
        ("[database]\ndsn = 'postgresql://db/shop?password=hunter2'", 0o604, ["database.dsn"]),
        ("[database]\ndsn = 'postgresql://bisd:hunter2@db/shop'", 0o640, []),
        ("[database]\ndsn = 'postgresql://bisd@db/shop'", 0o644, []),
        ("[database]\ndsn = 'postgresql://bisd@db/shop?sslmode=disable'", 0o600, ["database.dsn"]),
        ("[database]\ndsn = 'postgresql://bisd@localhost/shop?sslmode=disable'", 0o600, []),
        ("[database]\ndsn = 'postgresql://bisd@localhost:6432/shop'", 0o600, ["database.dsn"]),
        ("[deactivation]\nfailing_for = '4d'", 0o600, ["deactivation.failing_for"]),
        ("[log]\npayloads = true", 0o600, ["log.payloads"]),
        ("[log]\npayloads = true\nlevel = 'debug'", 0o600, ["log.payloads"]),
        ("", 0o644, []),
    ],
)
def test_what_is_doubtful(write: Write, text: str, mode: int, expected: list[str]) -> None:
    """Allowed, and told by its key: secrets that everybody may read, sessions in the clear, a pooler, what has no effect."""
    path = write(text)
    path.chmod(mode)
    assert expected == doubts(scrutiny.read(path, {}), path)


@pytest.mark.parametrize("key", ["database.dsn_file", "keys.master_file"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_secret_that_everybody_may_read_is_doubtful(write: Write, tmp_path: Path, key: str, mode: int) -> None:
    """A file beside the configuration, that is a secret as a whole."""
    file = tmp_path / "secret"
    file.write_text("5a" * 32 if key == "keys.master_file" else f"postgresql://bisd:{HIDDEN}@db/shop")
    file.chmod(mode)
    section, name = key.split(".")
    config = scrutiny.read(write(f"[{section}]\n{name} = '{file}'\n"), {})
    assert ([key] if mode == 0o644 else []) == doubts(config)


def test_a_doubt_repeats_no_secret(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes to the log."""
    path = write(f"[database]\ndsn = 'postgresql://bisd:{HIDDEN}@db:6432/shop?sslmode=disable'\n")
    path.chmod(0o644)
    log.configure("info", "json")
    scrutiny.tell(scrutiny.read(path, {}), path)
    said = capsys.readouterr().err
    assert (3, False) == (said.count("configuration_doubtful"), HIDDEN in said)


@pytest.mark.parametrize(
    ("text", "dsn_file", "master_file"),
    [
        ("", "{credentials}/dsn", "{credentials}/master"),
        ("[database]\ndsn = 'postgresql://db/shop'", None, "{credentials}/master"),
        ("[database]\ndsn_file = '{other}'", "{other}", "{credentials}/master"),
        ("[keys]\nmaster_file = '{other}'", "{credentials}/dsn", "{other}"),
        ("[log]\nlevel = 'debug'", "{credentials}/dsn", "{credentials}/master"),
    ],
)
def test_credentials_serve_where_nothing_else_is_named(
    write: Write, tmp_path: Path, text: str, dsn_file: str | None, master_file: str
) -> None:
    """systemd's LoadCredential=dsn:... and master:... need no word in the configuration; a word there stands above them."""
    credentials, other = tmp_path / "credentials", tmp_path / "other"
    credentials.mkdir()
    (credentials / "dsn").write_text("postgresql://db/shop")
    (credentials / "master").write_text("5a" * 32)
    names = {"credentials": str(credentials), "other": str(other)}
    config = load(write(text.format(**names)), {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert (dsn_file and Path(dsn_file.format(**names)), Path(master_file.format(**names))) == (
        config.database.dsn_file,
        config.keys.master_file,
    )


def test_credentials_that_were_not_given_are_not_missed(tmp_path: Path) -> None:
    """A unit may load others, or none."""
    assert Config() == load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert Config() == load(None, {"CREDENTIALS_DIRECTORY": "/nowhere"})


@pytest.mark.parametrize("name", ["example-shop", "example-inside"])
def test_an_example_is_a_configuration(name: str) -> None:
    """Every example can be used as it is; nothing in it is doubtful, as far as this host has what it names."""
    path = Path(__file__).parent.parent / "config" / f"{name}.toml"
    config = load(path, {})
    assert config.egress.ca_file is not None or [] == doubts(config, path)
    assert config.delivery.expires_after > config.deactivation.failing_for
