"""The house: imports run downward, stages do not know each other, rooms stay small, SQL lives in files."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "bisd").rglob("*.py"))

# From the ground floor up; a module imports only from floors below its own.
FLOORS = [
    {"bisd.errors", "bisd.model", "bisd.clock", "bisd.log", "bisd.systemd", "bisd.files", "bisd.dsn", "bisd.address"},
    {"bisd.values", "bisd.authorities", "bisd.vigil", "bisd.listing"},
    {"bisd.config", "bisd.embedded", "bisd.health", "bisd.pace", "bisd.turns", "bisd.traces", "bisd.watch"},
    {"bisd.metrics", "bisd.primary"},
    {"bisd.db", "bisd.egress", "bisd.client", "bisd.keyring"},
    {"bisd.deliveries", "bisd.resolver"},
    {
        "bisd.delivery",
        "bisd.migrate",
        "bisd.blueprint",
        "bisd.insight",
        "bisd.control",
        "bisd.fleet",
        "bisd.sealing",
        "bisd.sessions",
        "bisd.scrutiny",
    },
    {"bisd.lanes", "bisd.check"},
    {"bisd.intake", "bisd.worker", "bisd.housekeeping", "bisd.backlog", "bisd.bell"},
    {"bisd.vitals", "bisd.reload"},
    {"bisd.admin"},
    {"bisd.service", "bisd.receiver"},
    {"bisd.demo", "bisd.bench"},
    {"bisd.cli"},
    {"bisd.__main__"},
]
STAGES = {"arrival", "lane", "message", "post", "verdict", "writeback"}
# A button may say Create Webhook.
SQL = re.compile(r"\s*(select|insert\s+into|update|delete\s+from|with|create(?!\s+webhook)|alter|drop|notify|listen)\s", re.I)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(file) for file in FILES}


@cache
def _imports(path: Path) -> set[str]:
    """Modules of ours that this one imports, wherever in the file: in functions and for types only, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "bisd"} - {"bisd"}


def _floor(name: str) -> int:
    fitting = [number for number, floor in enumerate(FLOORS) for room in floor if name == room or name.startswith(room + ".")]
    assert len(fitting) == 1, f"{name} has no floor, or several: say where it belongs"
    return fitting[0]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_run_downward(path: Path) -> None:
    """A module imports from lower floors only; within the packages cli and delivery, nobody imports who imports them."""
    name = _name(path)
    if name == "bisd":
        return
    for imported in _imports(path):
        same_package = name.split(".")[:2] == imported.split(".")[:2] and name.count(".") > 0
        assert _floor(imported) < _floor(name) or (same_package and imported not in _importers(name)), imported


@cache
def _importers(name: str) -> set[str]:
    """Everything that imports `name`, directly or through others."""
    edges = {_name(path): _imports(path) for path in FILES}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        new = {importer for importer, imported in edges.items() if current in imported} - found
        found |= new
        waiting += new
    return found


def test_no_circles() -> None:
    """Nothing imports itself through others."""
    assert [name for name in map(_name, FILES) if name in _importers(name)] == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_do_not_know_each_other(stage: str) -> None:
    """Only intake and worker know the order of the path; delivery/ holds the path and nothing else."""
    path = ROOT / "bisd" / "delivery" / f"{stage}.py"
    assert [name for name in _imports(path) if name.startswith("bisd.delivery")] == []
    assert {file.stem for file in path.parent.glob("*.py")} - {"__init__"} == STAGES


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_rooms_are_small(path: Path) -> None:
    """A module has at most 400 lines, a function at most 50."""
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 50, node.name


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_sql_lives_in_files(path: Path) -> None:
    """No string in Python is an SQL statement."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            assert not SQL.match(node.value), node.value


def test_every_query_is_used_and_said() -> None:
    """Every file in queries/ is asked for by its name somewhere, and begins with what it does."""
    code = "".join(path.read_text() for path in FILES)
    for path in (ROOT / "bisd" / "sql" / "queries").glob("*.sql"):
        assert f'query("{path.stem}")' in code, path
        assert path.read_text().startswith("-- "), path


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_everything_is_caught_only_at_named_boundaries(path: Path) -> None:
    """`except Exception` stands in worker.py alone, where one attempt ends; nothing is started and left to itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.id if isinstance(node.type, ast.Name) else None
            assert node.type is not None, "bare except"
            assert caught not in ("Exception", "BaseException") or path.name == "worker.py"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "create_task":
            assert not (isinstance(node.func.value, ast.Name) and node.func.value.id == "asyncio"), "bare create_task"


def test_the_top_level_is_what_was_agreed() -> None:
    """Nothing lies at the top that no tool insists on."""
    agreed = {
        "setup.cfg", "bisd", "config", "tests", "systemd", "README.md",
        "pyproject.toml", "LICENSE", "CHANGELOG.md", ".gitignore", ".ci", "MANIFEST.in",
    }  # fmt: skip
    made = {
        ".git",
        ".venv",
        ".hypothesis",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".coverage",
        "bisd.egg-info",
        "build",
    }
    assert {path.name for path in ROOT.iterdir()} - made == agreed
