"""Builds the pure-Python wheel into a directory, without a Rust toolchain, and prints its path.

maturin only builds wheels with a binary, so a build backend for pure Python is given the same
sources and the same metadata. tests/project/test_packaging.py holds the two wheels against each
other.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BACKEND = 'requires = ["flit_core>=3.12,<4"]\nbuild-backend = "flit_core.buildapi"\n'


def build(destination: str) -> Path:
    """The wheel, built from this checkout."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "source")
        copy_sources(source)
        built = Path(directory, "built")
        pip = [sys.executable, "-m", "pip"]
        subprocess.run(
            [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", built, source], check=True
        )
        (wheel,) = built.glob("*-py3-none-any.whl")
        Path(destination).mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, destination))


def copy_sources(target: Path) -> None:
    no_binaries = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(ROOT / "python" / "sserpent", target / "sserpent", ignore=no_binaries)
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, target)
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pyproject = pure_pyproject(pyproject, cargo_version())
    (target / "pyproject.toml").write_text(pyproject, encoding="utf-8")


def pure_pyproject(pyproject: str, version: str) -> str:
    """pyproject.toml for the other backend, which does not know the version of the crate."""
    pyproject = replace(
        r'^requires = \["maturin.*\]\nbuild-backend = "maturin"\n', BACKEND, pyproject
    )
    return replace(r'^dynamic = \["version"\]$', f'version = "{version}"', pyproject)


def replace(pattern: str, replacement: str, text: str) -> str:
    text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"pyproject.toml has {count} matches of {pattern}, not one")
    return text


def cargo_version() -> str:
    cargo = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "(.+)"$', cargo, re.MULTILINE)
    if match is None:
        raise SystemExit("Cargo.toml names no version")
    return match[1]


if __name__ == "__main__":
    print(build(sys.argv[1]))
