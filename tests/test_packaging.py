"""What is built has all that the repository has, and runs without it; what a deployment installs is pinned by hash."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bisd import __version__
from tests.support.cli import Run

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "config" / "requirements.lock"
# Imports every module of bisd, and prints where bisd is and how many modules it has.
IMPORT_ALL = """
import importlib, pathlib, pkgutil, bisd
names = [one.name for one in pkgutil.walk_packages(bisd.__path__, "bisd.") if one.name != "bisd.__main__"]
for name in names:
    importlib.import_module(name)
from bisd import migrate
print(pathlib.Path(bisd.__file__).parent, 1 + len(names), len(migrate.known()))
"""


class Built(NamedTuple):
    """A copy of the repository, the paths of its files, and what was built of it."""

    tree: set[str]
    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built as a release is: the source distribution of the repository, and of nothing but that the wheel."""
    copy = tmp_path_factory.mktemp("clone") / "bisd"
    passed_over = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", *passed_over))
    tree = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    out = copy.parent / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    [source], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(tree, source, wheel)


def test_the_source_distribution_is_the_repository(built: Built) -> None:
    """Every file of the repository is in the source distribution, and besides only what the builder writes about it."""
    with tarfile.open(built.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    assert built.tree == {name for name in names if name != "PKG-INFO" and not name.startswith("bisd.egg-info/")}


def test_the_wheel_has_the_whole_package(built: Built) -> None:
    """Every file under bisd/, SQL and py.typed included, is in the wheel; the configuration, the lock and the units of systemd
    are installed under share/bisd."""
    with ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    data = f"bisd-{__version__}.data/data/share/bisd/"
    expected = {name for name in built.tree if name.startswith("bisd/")}
    expected |= {data + name.removeprefix("config/") for name in built.tree if name.startswith("config/")}
    expected |= {data + name for name in built.tree if name.startswith("systemd/")}
    assert expected == names


def test_an_installed_wheel_needs_nothing_of_the_repository(built: Built, tmp_path: Path) -> None:
    """Installed alone, every module imports, every migration is found, and the command and its files are in their places."""
    place = tmp_path / "opt"
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(built.wheel)], check=True, timeout=60)
    [packages] = (place / "lib").glob("python*/site-packages")
    # What it depends on, as it is here; no .pth file in there is heeded, so that the repository is not seen.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    ran = subprocess.run([python, "-I", "-c", IMPORT_ALL], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    modules = [name for name in built.tree if re.fullmatch(r"bisd/.*\.py", name) and name != "bisd/__main__.py"]
    migrations = [name for name in built.tree if name.startswith("bisd/sql/migrations/")]
    assert (f"{packages / 'bisd'} {len(modules)} {len(migrations)}\n", "") == (ran.stdout, ran.stderr)

    said = subprocess.run([place / "bin" / "bisd", "--version"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (0, f"bisd, version {__version__}\n") == (said.returncode, said.stdout)
    assert (ROOT / "config/bisd.toml").read_bytes() == (place / "share/bisd/bisd.toml").read_bytes()
    assert (ROOT / "systemd/bisd@.service").read_bytes() == (place / "share/bisd/systemd/bisd@.service").read_bytes()


def pins() -> dict[str, Requirement]:
    """The lock's requirements by name. Lines that are none, nor a hash nor a comment, are refused."""
    found = {}
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    for entry in re.split(r"(?<!\\)\n", "\n".join(lines)):
        match = re.fullmatch(r"([^\\\n]+?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)", entry)
        assert match is not None, f"no requirement with its hashes: {entry}"
        requirement = Requirement(match[1])
        assert requirement.url is None
        found[canonicalize_name(requirement.name)] = requirement
    return found


def test_the_lock_pins_every_requirement_by_hash() -> None:
    """Every line of the lock is one version with its hashes, or a comment: no index, no path, no range."""
    operators = {one.operator for requirement in pins().values() for one in requirement.specifier}
    assert {"=="} == operators
    assert {1} == {len(requirement.specifier) for requirement in pins().values()}


def test_the_lock_satisfies_what_is_required() -> None:
    """For everything that setup.cfg requires to run, the lock has a version within the bounds."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]
    pinned = pins()
    missing = [str(one) for one in required if canonicalize_name(one.name) not in pinned]
    assert [] == missing
    versions = {one.name: next(iter(pinned[canonicalize_name(one.name)].specifier)).version for one in required}
    assert [] == [str(one) for one in required if not one.specifier.contains(versions[one.name])]


def test_the_builder_of_the_tests_is_that_of_a_release() -> None:
    """What pyproject.toml requires to build is required for the tests, in which it builds without isolation."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert set() == set(backend) - set(setup["options.extras_require"]["test"].split("\n"))


def test_a_daemon_refuses_the_parser_that_is_not_compiled(bisd: Run) -> None:
    """Where aiohttp has fallen back on its parser in Python, the daemon does not start, and says what to do."""
    ran = bisd("run", AIOHTTP_NO_EXTENSIONS="1")
    assert (2, "") == (ran.returncode, ran.stdout)
    assert "without its compiled parser" in ran.stderr
    assert "Traceback" not in ran.stderr
