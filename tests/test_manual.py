"""The manual page and the shells' completion know every command, because they are made of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from bisd.cli import bisd as command_line

PROGRAMS = Path(sys.executable).parent


def bisd(*arguments: str) -> str:
    command = [sys.executable, "-m", "bisd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def page() -> str:
    return bisd("manual")


def plain(roff: str) -> str:
    """The text as a reader sees it, but for how its lines are broken."""
    text = re.sub(r"\\f[BIR]", "", roff).replace("\\&", "").replace("\\-", "-").replace("\\(dq", '"').replace("\\e", "\\")
    return re.sub(r"^(\.S[SH]) \"?(.*?)\"?$", r"\1 \2", text, flags=re.MULTILINE)


def leaves(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def part(page: str, heading: str) -> str:
    match = re.search(rf"^\.S[SH] {re.escape(heading)}\b.*?\n(.*?)(?=^\.S[SH] |\Z)", plain(page), re.MULTILINE | re.DOTALL)
    assert match is not None, f"the manual page has no {heading}"
    return match[1]


@pytest.mark.parametrize(("path", "command"), [*leaves(command_line, "bisd")], ids=lambda value: str(value).replace(" ", "-"))
def test_the_page_has_every_command(page: str, path: str, command: click.Command) -> None:
    """Every command stands in the page with what it does and all its options; those that all commands have stand at the top."""
    section = part(page, path)
    assert " ".join((command.help or "").split()) in " ".join(section.replace(".PP", "").split())
    options = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
    assert options - {"--config"} == set(re.findall(r"^(--[a-z-]+)", section, re.MULTILINE))


def test_the_page_has_what_is_common(page: str) -> None:
    """The options of all commands, the exit codes, the variables of the environment, the files and the signals are told."""
    assert {"--version", "--config", "-h"} == set(re.findall(r"^(--?[a-z]+)", part(page, "OPTIONS"), re.MULTILINE))
    assert ["0", "1", "2"] == re.findall(r"^([0-9]+)$", part(page, "EXIT STATUS"), re.MULTILINE)
    variables = " ".join(re.findall(r"^((?:[A-Z_]+(?:, )?)+)$", part(page, "ENVIRONMENT"), re.MULTILINE))
    own = ["BISD_CONFIG", "BISD_LISTEN_KEY", "BISD_SECTION_KEY"]
    assert [*own, "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"] == variables.replace(",", "").split()
    assert "/etc/bisd/NAME.toml" in part(page, "FILES")
    assert ["SIGTERM, SIGINT", "SIGHUP"] == re.findall(r"^(SIG[A-Z, ]+)$", part(page, "SIGNALS"), re.MULTILINE)


def lint(page: str) -> str:
    """What mandoc finds wrong. That the page has no date is not: it is of a version."""
    command = ["mandoc", "-T", "lint", "-W", "warning"]
    found = subprocess.run(command, input=page, capture_output=True, text=True, timeout=30).stdout
    return "".join(line for line in found.splitlines(keepends=True) if "missing date" not in line)


def warn(page: str) -> str:
    """What groff, which man uses, warns of."""
    command = ["groff", "-man", "-T", "utf8", "-ww", "-z"]
    return subprocess.run(command, input=page, capture_output=True, text=True, timeout=30).stderr


@pytest.mark.parametrize("read", [one for one, program in ((lint, "mandoc"), (warn, "groff")) if shutil.which(program)])
def test_the_page_is_clean(page: str, read: Callable[[str], str]) -> None:
    """The programs that show manual pages find nothing to say about it, and do about a page that is broken."""
    assert "" == read(page)
    assert "" != read(page.replace(".TP\n", ".TPX\n", 1))


def test_a_line_of_the_page_is_no_request_by_accident(page: str) -> None:
    """Every line that roff takes for a request is one of those that the page is made of."""
    assert {".TH", ".SH", ".SS", ".PP", ".TP", ".B"} == set(re.findall(r"^[.'][A-Za-z]*", page, re.MULTILINE))


def bash(words: list[str]) -> list[str]:
    """The words that bash offers for the last of `words`."""
    script = f"""
    source <(bisd completion bash)
    COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
    _bisd_completion bisd
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run(["bash", "-c", script])


def fish(words: list[str]) -> list[str]:
    script = f"bisd completion fish | source; complete --do-complete '{' '.join(words)}'"
    return [line.split("\t")[0] for line in run(["fish", "--no-config", "-c", script])]


def run(command: list[str]) -> list[str]:
    path = f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin"
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env={"PATH": path})
    assert "" == ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("complete", [one for one in (bash, fish) if shutil.which(one.__name__)])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bisd", "acc"], ["account"]),
        (["bisd", "delivery", "list", "--st"], ["--state"]),
        (["bisd", "delivery", "list", "--state", "h"], ["held"]),
    ],
)
def test_a_shell_completes(complete: Callable[[list[str]], list[str]], words: list[str], expected: list[str]) -> None:
    """With the script of `bisd completion`, the shell offers commands, options, and the values that an option may have."""
    assert expected == complete(words)


def test_zsh_takes_its_script() -> None:
    """The script for zsh says for what it is, as its loader of completions wants it."""
    assert "#compdef bisd" == bisd("completion", "zsh").splitlines()[0]
