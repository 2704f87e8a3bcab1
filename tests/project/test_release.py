"""What the release workflow relies on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# It reads the sources.
pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PLATFORMS = [
    "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "manylinux_2_17_aarch64.manylinux2014_aarch64",
    "musllinux_1_2_x86_64",
    "musllinux_1_2_aarch64",
    "macosx_10_12_x86_64",
    "macosx_11_0_arm64",
    "win_amd64",
]


def pythons() -> list[str]:
    """The versions that pyproject.toml names, and the free-threaded builds among the last two."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert len(versions) > 3
    return [*versions, *(f"{version}t" for version in versions[-2:])]


def version() -> str:
    text = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    return re.findall(r'^version = "(.+)"$', text, re.MULTILINE)[0]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A directory with the names of all files of a release."""
    names = [f"sserpent-{version()}.tar.gz", f"sserpent-{version()}-py3-none-any.whl"]
    for python in pythons():
        abi = "cp" + python.replace(".", "")
        tags = [f"{abi.rstrip('t')}-{abi}-{platform}" for platform in PLATFORMS]
        names += [f"sserpent-{version()}-{tag}.whl" for tag in tags]
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def check(release: Path, tag: str | None = None) -> list[str]:
    """What the check prints; nothing if it passes."""
    command = [sys.executable, ROOT / "tools" / "check_release.py", release]
    done = subprocess.run([*command, tag or f"v{version()}"], capture_output=True, text=True)
    assert bool(done.returncode) == bool(done.stderr)
    return done.stderr.splitlines()


def test_a_complete_release_passes(release: Path) -> None:
    assert check(release) == []


def test_a_missing_file_is_named(release: Path) -> None:
    next(release.glob("*cp312*musllinux*aarch64.whl")).unlink()
    assert check(release) == ["sserpent-*-cp312-cp312-musllinux*_aarch64.whl: 0 files, not one"]


def test_a_file_too_many_is_named(release: Path) -> None:
    name = f"sserpent-{version()}-cp312-cp312-linux_x86_64.whl"
    (release / name).touch()
    assert check(release) == [f"{name}: not expected"]


def test_a_file_of_another_version_is_refused(release: Path) -> None:
    wheel = next(release.glob("*win_amd64.whl"))
    wheel.rename(release / wheel.name.replace(version(), "9.9.9"))
    (problem,) = check(release)
    assert "9.9.9" in problem


def test_a_tag_that_is_not_the_version_is_refused(release: Path) -> None:
    assert check(release, "v9.9.9") == [f"the tag is v9.9.9, the version {version()}"]


def test_workflows_build_and_test_every_supported_python() -> None:
    ci, released = (path.read_text(encoding="utf-8") for path in WORKFLOWS)
    linux = re.findall(r"python(3\.\d+t?)", released)
    (others,) = re.findall(r"python: (\[.*\])", released)
    assert linux == pythons()
    assert re.findall(r'"(.+?)"', others) == pythons()
    (tested,) = re.findall(r"python: (\[.*\])", ci)
    assert set(pythons()) - set(re.findall(r'"(.+?)"', tested)) <= {pythons()[-1]}


def test_workflows_call_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    called = {
        name for line in re.findall(r"run: make (.*?) PYTHON=", text) for name in line.split()
    }
    assert {"lint", "test", "dist"} <= called <= targets
