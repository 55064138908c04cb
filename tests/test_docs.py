"""Documents cannot rot: what README.md, config/bisd.toml and the systemd unit say is held against the code."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks.webhooks import WebhookVerificationError

from bisd import __version__
from bisd.check import Level, Subject
from bisd.cli import bisd as command_line
from bisd.config import Config, load
from bisd.delivery.message import compose
from bisd.log import Event
from bisd.model import Code, Delivery, Message, Webhook
from bisd.service import Service

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHIPPED = ROOT / "config" / "bisd.toml"
KEY = "bis_" + "5" * 64
MIGRATIONS = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "bisd/sql/migrations").iterdir()))
# Functions that only bisd itself calls: triggers, the daemon's, and parts of others.
OUR_OWN = {
    "account_changed", "attached_key", "attached_query", "attached_text", "attempts_before", "beat", "cancel_all",
    "delivery_of", "drop_partitions", "enliven_webhook", "fan_out", "filter_fault", "forget_answers", "forget_attachment",
    "forget_faults", "forget_webhooks", "header_fault", "insert_events", "is_owed", "keep_plan", "keep_webhook",
    "last_of_delivery", "lock_plans",
    "make_partitions", "mark_sent", "max_body_bytes", "members", "midnight", "move_to_partition", "new_api_key", "no_event",
    "partition_key", "partition_name",
    "notification_created", "notification_json", "notification_sent", "owing", "passes", "plan_changed", "recent",
    "record_faults", "refuse_event", "report", "require_account", "require_attachable", "require_expression", "require_plan",
    "require_topic", "require_url", "require_webhook", "reread_webhook", "restamp", "resume_account", "ring", "sample",
    "sampled_attempts", "seal_keys", "stamp_webhook", "url_fault", "use_token", "utc", "visible_columns", "webhook_state",
    "webhooks_changed",
}  # fmt: skip


def section(heading: str) -> str:
    """The text under a heading of README.md, up to the next heading of any level."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match is not None, f"README.md has no heading {heading!r}"
    return match[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def snippet(language: str, function: str) -> str:
    """The one block of README.md in `language` that defines `function`."""
    found = [block for block in blocks(README, language) if re.search(rf"(def|function) {function}\(", block)]
    assert len(found) == 1, f"README.md has {len(found)} {language} blocks that define {function}"
    return found[0]


def code(text: str) -> Iterator[str]:
    """Everything in README.md that is set as shell: sh blocks, and spans that begin with bisd."""
    for block in blocks(text, "sh"):
        yield from block.splitlines()
    yield from re.findall(r"`(bisd [^`]*)`", text)


def commands(group: click.Group, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def settings() -> list[tuple[str, str, object]]:
    """Every key of the configuration: section, name, default."""
    return [
        (part.name, key.name, getattr(getattr(Config(), part.name), key.name))
        for part in fields(Config)
        for key in fields(getattr(Config(), part.name))
    ]


def shipped_lines() -> Iterator[tuple[str, str, str, bool, str]]:
    """The keys that config/bisd.toml shows: section, name, value as text, whether active, the line above."""
    where, above = "", ""
    for line in SHIPPED.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[([a-z_]+)\]", line):
            where = match[1]
        elif match := re.fullmatch(r"(# )?([a-z_]+) = (.+)", line):
            yield where, match[2], match[3], match[1] is None, above
        above = line


def composed(body: bytes = b'{"notification_id":1,"product":{"product_title":"Th\xc3\xa9 noir"}}') -> Message:
    """A request as it is sent now, while a rotation of keys overlaps: with every header that there is."""
    now = datetime.now(UTC)
    webhook = Webhook(1, 1, "https://teas.example.com/", KEY, "bis_" + "4" * 64, now + timedelta(hours=1), None, True)
    delivery = Delivery(1, 7, now, now, now, 0, "notification/create", body, len(body))
    return compose(webhook, delivery._replace(traceparent=f"00-{'a' * 32}-{'b' * 16}-01"), now)


def test_the_shipped_configuration_is_the_defaults() -> None:
    """config/bisd.toml, loaded, is what bisd does without a configuration."""
    assert Config() == load(SHIPPED, {})


def test_the_shipped_configuration_names_every_key_and_no_other() -> None:
    """Every key of every section stands in config/bisd.toml once, in the order of the code: active if it has a default,
    commented out if it has none."""
    expected = [(part, name, default is not None) for part, name, default in settings()]
    assert expected == [(part, name, active) for part, name, _, active, _ in shipped_lines()]


def test_the_shipped_configuration_has_every_section() -> None:
    """The sections of config/bisd.toml are those of the code."""
    assert [part.name for part in fields(Config)] == list(tomllib.loads(SHIPPED.read_text(encoding="utf-8")))


def test_every_shipped_key_is_explained() -> None:
    """The line above each key in config/bisd.toml is a comment about it."""
    assert [] == [f"{part}.{name}" for part, name, _, _, above in shipped_lines() if not above.startswith("# ")]


@pytest.mark.parametrize(
    ("part", "name", "value"), [(part, name, value) for part, name, value, active, _ in shipped_lines() if not active]
)
def test_a_commented_example_can_be_used(part: str, name: str, value: str, tmp_path: Path) -> None:
    """What a commented line of config/bisd.toml gives as an example is a valid value, once it is active."""
    file = tmp_path / "bisd.toml"
    file.write_text(f"[{part}]\n{name} = {value}\n", encoding="utf-8")
    assert getattr(getattr(load(file, {}), part), name) is not None


def test_every_command_is_in_the_readme() -> None:
    """Every command and subcommand stands in README.md, in full."""
    table = section("Commands")
    missing = [name for name in commands(command_line, "bisd") if not re.search(rf"`{name}[ `]", table)]
    assert [] == missing


def test_the_readme_names_only_commands_that_exist() -> None:
    """Every `bisd ...` that README.md sets as code is a command, and its options are options of that command."""
    for line in code(README):
        for words in re.findall(r"(?:^|[ /])bisd((?: [^&|;#]+)?)", line):
            group: click.Command = command_line
            given = [word for word in re.sub(r"[\[\]]", "", words).split() if word not in ("--config",)]
            given = [word for word in given if not word.startswith("/")]
            while isinstance(group, click.Group) and given:
                assert given[0] in group.commands, f"README.md: {line}"
                group = group.commands[given.pop(0)]
            known = {name for parameter in group.params for name in parameter.opts}
            assert set() == {word for word in given if word.startswith("--")} - known, f"README.md: {line}"


def test_every_log_event_is_in_the_readme() -> None:
    """The table of log events in README.md has every event, and no other."""
    assert [event.value for event in Event] == re.findall(r"^\| `([a-z_]+)` \|", section("Log events"), re.MULTILINE)


def test_every_metric_is_in_the_readme() -> None:
    """The table of metrics in README.md has every metric that a daemon shows of its own, with its labels, and no other."""
    registry = Service(Config(), "postgresql://bisd@db.example.com/shop").metrics.registry
    there = {}
    for family in registry.collect():
        labels = {label for one in family.samples for label in one.labels if label != "le"}
        there[family.name + ("_total" if family.type == "counter" else "")] = labels
    told = {}
    for names, labels in re.findall(r"^\| (`bisd_[^|]*) \|([^|]*)\|", section("Metrics"), re.MULTILINE):
        of_each = [set(re.findall(r"`(\w+)`", part)) for part in labels.split(";")]
        for place, name in enumerate(re.findall(r"`(bisd_\w+)`", names)):
            told[name] = of_each[min(place, len(of_each) - 1)]
    assert {name: labels for name, labels in there.items() if name.startswith("bisd_")} == told


def is_page(path: str) -> bool:
    return not path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))


def test_every_page_is_in_the_readme() -> None:
    """The table of pages in README.md has each that can be opened, and no other; what a path names stands in braces."""
    routes = Service(Config(), "postgresql://bisd@db.example.com/shop").routes()
    pages = [
        re.sub(r":[^{}]*(?:{[0-9,]+})?}", "}", route.path) for route in routes if is_page(route.path) and route.method == "GET"
    ]
    told = re.findall(r"^\| `(/[^`]*)` \|", section("Pages"), re.MULTILINE)
    assert {page for page in pages if not page.startswith("/static/")} == set(told)
    assert len(told) == len(set(told))


def test_every_path_is_in_the_readme() -> None:
    """The tables of paths in README.md have every path that the HTTP face answers, and no other."""
    service = Service(Config(), "postgresql://bisd@db.example.com/shop")
    routes = [(route.method, route.path) for route in service.routes() if not is_page(route.path)]
    told = [("GET", path) for path in re.findall(r"^\| `(/\w+)` \|", section("Health"), re.MULTILINE)]
    told += [("GET", path) for path in re.findall(r"`(/api/v1/[\w.]+)` describes", section("API"))]
    rows = re.findall(r"^\| ([A-Z]+) \| `(/[^`]*)` \|", section("API"), re.MULTILINE)
    assert routes == told + [(method, f"/api/v1{path}") for method, path in rows]


def test_everything_that_the_doctor_looks_at_is_in_the_readme() -> None:
    """The table in README.md has every subject, in the order in which findings come, and no other; and every level is told."""
    told = section("The doctor")
    assert [subject.value for subject in Subject] == re.findall(r"^\| `([a-z]+)` \|", told, re.MULTILINE)
    assert set() == {level.value for level in Level if f"`{level.value}`" not in told}


def test_every_attribute_of_a_span_is_in_the_readme() -> None:
    """README.md's table of a span names what bisd puts into one, and nothing else."""
    made = set(re.findall(r'"((?:http|server|error|bisd)\.[a-z_.]+)"', (ROOT / "bisd/traces.py").read_text(encoding="utf-8")))
    rows = re.findall(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \|", section("Traces"), re.MULTILINE)
    assert made == {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_code_is_in_the_readme() -> None:
    """Every reason why an attempt brought no status is told in README.md."""
    assert [] == [one.value for one in Code if f"`{one.value}`" not in section("Commands")]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^create function bisd\.(\w+)\(", MIGRATIONS, re.MULTILINE)) - OUR_OWN))
def test_every_sql_function_is_in_the_readme(name: str) -> None:
    """Every function that an application or an operator calls is in a table of README.md, with the parameters it has."""
    match = re.search(rf"^create function bisd\.{name}\(([^)]*)\)", MIGRATIONS, re.MULTILINE)
    assert match is not None
    given = [part.split() for part in match[1].split(",") if part]
    names = ", ".join(words[0] for words in given if words[0] != "out")
    assert f"| `bisd.{name}({names})` |" in README, f"bisd.{name}({names})"


def test_every_setting_of_a_webhook_is_in_the_readme() -> None:
    """README.md's table has the settings that bisd.set_webhook knows, and no other."""
    match = re.search(r"known text\[\] := array\['([a-z_', ]*)'\]", MIGRATIONS)
    assert match is not None
    table = section("The life of a webhook").partition("| setting |")[2]
    assert match[1].split("', '") == re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)


def test_every_state_of_a_webhook_is_in_the_readme() -> None:
    """README.md's table has every state that bisd.webhook_state knows; a removed one is in no view."""
    match = re.search(r"create function bisd\.webhook_state\(.*?\$\$(.*?)\$\$", MIGRATIONS, re.DOTALL)
    assert match is not None
    states = set(re.findall(r"(?:then|else) '([a-z ]+)'", match[1])) - {"removed"}
    assert set() == {state for state in states if f"`{state}`" not in section("The life of a webhook")}


def test_every_role_is_in_the_readme() -> None:
    """The table of roles in README.md has the roles that the migrations make, and no other."""
    made = re.search(r"array\['(bisd_.*)'\]", (ROOT / "bisd/sql/migrations/0004_roles.sql").read_text(encoding="utf-8"))
    assert made is not None
    assert made[1].split("', '") == re.findall(r"^\| `(bisd_[a-z]+)` \|", section("Feed it"), re.MULTILINE)


def test_every_header_is_in_the_readme() -> None:
    """README.md's table has every header that a message has, and no other."""
    rows = re.findall(r"^\| (`[A-Za-z-]+`(?:, `[A-Za-z-]+`)*) \|", section("Receive and verify"), re.MULTILINE)
    assert set(composed().headers) == {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_body_in_the_readme_has_the_documented_keys_in_order() -> None:
    """The body that README.md shows is what row_to_json makes of bisd.notification_body: keys, order, compactness."""
    [shown] = blocks(section("Receive and verify"), "json")
    body = json.loads(shown)
    triggers = (ROOT / "bisd/sql/migrations/0002_triggers.sql").read_text(encoding="utf-8")
    for name, value in (
        ("notification_body", body),
        ("notification_customer", body["customer"]),
        ("notification_product", body["product"]),
    ):
        match = re.search(rf"create type bisd\.{name} as \(([^)]*)\)", triggers)
        assert match is not None
        assert [column.split()[0].strip('"') for column in match[1].split(",")] == list(value)
    assert shown.rstrip("\n") == json.dumps(body, separators=(",", ":"))


@pytest.mark.parametrize("heading", ["Try it", "Run the tests"])
def test_the_two_commands_are_one_line_each(heading: str) -> None:
    """Trying bisd, and testing it, is one command line each, alone in its block and ready to be pasted."""
    [block] = blocks(section(heading), "sh")
    assert 1 == len(block.splitlines())


def test_the_layout_names_the_data_path() -> None:
    """The table of files in README.md has every stage of the data path, and every file that README.md names exists."""
    stages = {f"bisd/delivery/{path.name}" for path in (ROOT / "bisd/delivery").glob("[!_]*.py")}
    named = set(re.findall(r"`((?:bisd|config|systemd|tests)/[\w./@-]+)`", README))
    assert set() == stages - named
    assert [] == [name for name in sorted(named) if not (ROOT / name).exists()]


def test_the_release_in_the_readme_is_this_one() -> None:
    """The commands of README.md that install bisd name the release that the README is of."""
    assert {__version__} == set(re.findall(r"^release=(.*)$", README, re.MULTILINE))


def test_every_alert_is_in_the_readme() -> None:
    """README.md says of every alert, and of no other, what it means and what to do."""
    rules = (ROOT / "config/prometheus-alerts.yml").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Bisd\w+) \| .+ \| .+ \|$", section("What to watch"), re.MULTILINE)
    assert sorted(re.findall(r"^ *- alert: (\w+)$", rules, re.MULTILINE)) == sorted(rows)


def test_the_links_within_the_readme_lead_somewhere() -> None:
    """Every link of README.md to one of its headings, or to a file, has a heading or a file at its end."""
    anchors = {"#" + heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("https://")]
    assert [] == [target for target in targets if target not in anchors and not (ROOT / target).exists()]


def test_the_unit_starts_what_exists() -> None:
    """The systemd unit's command line is one that bisd understands, and its Type is what the daemon speaks."""
    unit = (ROOT / "systemd/bisd@.service").read_text(encoding="utf-8")
    [line] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert ["/opt/bisd/bin/bisd", "--config", "/etc/bisd/%i.toml", "run"] == shlex.split(line)
    assert "run" in command_line.commands
    assert "--config" in {name for parameter in command_line.params for name in parameter.opts}
    assert ["notify"] == re.findall(r"^Type=(.*)$", unit, re.MULTILINE)


def run(program: str, source: str, *arguments: str) -> str:
    """What a program prints that is given on standard input, with the key, the body and the signature as arguments."""
    ran = subprocess.run([program, *arguments], input=source, capture_output=True, text=True, timeout=30, check=True)
    return ran.stdout.strip()


def python(key: str, body: str, signature: str) -> str:
    tail = "import sys\nkey, body, signature = sys.argv[1:]\nprint(verify_webhook(key, body.encode(), signature))\n"
    return run(sys.executable, snippet("python", "verify_webhook") + tail, "-", key, body, signature)


def node(key: str, body: str, signature: str) -> str:
    tail = "const [key, body, signature] = process.argv.slice(2);\n"
    tail += "console.log(verifyWebhook(key, Buffer.from(body), signature));\n"
    return run("node", snippet("js", "verifyWebhook") + tail, "-", key, body, signature)


def ruby(key: str, body: str, signature: str) -> str:
    return run("ruby", snippet("ruby", "verify_webhook") + "puts verify_webhook(*ARGV)\n", "-", key, body, signature)


def php(key: str, body: str, signature: str) -> str:
    tail = "echo verify_webhook(...array_slice($argv, 1)) ? 'true' : 'false';\n"
    return run("php", "<?php\n" + snippet("php", "verify_webhook") + tail, "--", key, body, signature)


VERIFIERS = [python] + [other for other in (node, ruby, php) if shutil.which(other.__name__)]


@pytest.mark.parametrize("verify", VERIFIERS)
def test_the_verification_in_the_readme_works(verify: Callable[[str, str, str], str]) -> None:
    """README.md's code takes what bisd sends, and refuses a changed body, another key, and a missing signature."""
    message = composed()
    body, signature = message.body.decode(), message.headers["X-BIS-Signature"]
    assert "true" == verify(KEY, body, signature).lower()
    assert "false" == verify(KEY, body.replace("noir", "vert"), signature).lower()
    assert "false" == verify("bis_" + "6" * 64, body, signature).lower()
    assert "false" == verify(KEY, body, "").lower()


def test_the_standard_webhooks_verification_in_the_readme_works() -> None:
    """README.md's code for the Standard Webhooks library takes what bisd sends, and refuses a changed body."""
    names: dict[str, Callable[[str, bytes, dict[str, str]], None]] = {}
    exec(snippet("python", "verify_standard"), names)  # noqa: S102  (the document under test is code)
    message = composed()
    names["verify_standard"](KEY, message.body, message.headers)
    with pytest.raises(WebhookVerificationError):
        names["verify_standard"](KEY, message.body + b" ", message.headers)


def test_the_secret_of_the_readme_is_the_one_the_library_signs_with() -> None:
    """Signed by the Standard Webhooks library with whsec_ and the base64 of the key, a message is what bisd sends."""
    message = composed()
    secret = "whsec_" + base64.b64encode(KEY.encode()).decode()
    at = datetime.fromtimestamp(int(message.headers["webhook-timestamp"]), UTC)
    expected = StandardWebhook(secret).sign(message.headers["webhook-id"], at, message.body.decode())
    assert expected == message.headers["webhook-signature"].split()[0]
