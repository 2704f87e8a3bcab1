"""Which backend is picked, each way in an interpreter of its own.

A copy of the package's Python files is used, so that the extension can be left out or broken.
"""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sserpent

# Each in a process of its own, without the SSERPENT_PURE of this one.
pytestmark = pytest.mark.once

PACKAGE = Path(sserpent.__file__).parent
EXTENSION = f"compiled{importlib.machinery.EXTENSION_SUFFIXES[0]}"
# What works must work whole, not only import.
USE = """
import sserpent
from sserpent._core import Buffer

buffer = Buffer()
buffer.push(sserpent.ServerSentEvent(data={"a": 1}, event="e"))
assert buffer.take() == b'event: e\\ndata: {"a":1}\\n\\n'
print(sserpent.BACKEND, type(sserpent.ServerSentEvent.encode).__name__, sserpent.__file__)
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package without its extension."""
    copy = tmp_path / "sserpent"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return copy


@pytest.fixture
def native(request: pytest.FixtureRequest) -> Path:
    if request.config.getoption("--no-native"):
        pytest.skip("--no-native")
    from sserpent._core import compiled

    return Path(compiled.__file__)


def run(package: Path, code: str = USE, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "SSERPENT_PURE"}
    # The copy goes before the installed package, wherever that is.
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**inherited, "PYTHONPATH": str(package.parent), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def backend_of(package: Path, result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    backend, kind, file = result.stdout.rstrip().split(" ", 2)
    assert Path(file).parent == package
    assert kind == {"rust": "method_descriptor", "python": "function"}[backend]
    return backend


def test_the_extension_is_used_where_it_is(package: Path, native: Path) -> None:
    shutil.copy(native, package / "_core")
    assert backend_of(package, run(package)) == "rust"


def test_the_twin_is_used_where_the_extension_is_missing(package: Path) -> None:
    assert backend_of(package, run(package)) == "python"


def test_the_twin_can_be_forced(package: Path, native: Path) -> None:
    shutil.copy(native, package / "_core")
    assert backend_of(package, run(package, SSERPENT_PURE="1")) == "python"


@pytest.mark.parametrize("value", ["", "0"])
def test_other_values_force_nothing(package: Path, native: Path, value: str) -> None:
    shutil.copy(native, package / "_core")
    assert backend_of(package, run(package, SSERPENT_PURE=value)) == "rust"


def test_the_forced_twin_does_not_load_the_extension(package: Path) -> None:
    (package / "_core" / EXTENSION).write_bytes(b"not a library")
    code = f"{USE}\nimport sys\nassert 'sserpent._core.compiled' not in sys.modules"
    assert backend_of(package, run(package, code, SSERPENT_PURE="1")) == "python"


@pytest.mark.parametrize("content", [b"", b"not a library"], ids=["empty", "no library"])
def test_a_broken_extension_is_an_error(package: Path, content: bytes) -> None:
    (package / "_core" / EXTENSION).write_bytes(content)
    result = run(package)
    assert result.returncode == 1
    assert "ImportError" in result.stderr
    assert EXTENSION in result.stderr
    assert result.stdout == ""


def test_a_truncated_extension_is_an_error(package: Path, native: Path) -> None:
    (package / "_core" / EXTENSION).write_bytes(native.read_bytes()[:4096])
    result = run(package)
    assert result.returncode != 0
    assert result.stdout == ""


def test_an_extension_without_its_entry_is_an_error(package: Path) -> None:
    import _ctypes

    # A real library, but of another module.
    shutil.copy(_ctypes.__file__, package / "_core" / EXTENSION)
    result = run(package)
    assert result.returncode == 1
    assert "PyInit_compiled" in result.stderr


def test_a_module_that_the_extension_misses_is_an_error(package: Path) -> None:
    # A missing module of another name must not be taken for a missing extension.
    (package / "_core" / "compiled.py").write_text("import module_that_is_not_there\n")
    result = run(package)
    assert result.returncode == 1
    assert "No module named 'module_that_is_not_there'" in result.stderr


def test_an_extension_of_another_release_is_an_error(package: Path) -> None:
    (package / "_core" / "compiled.py").write_text("class ServerSentEvent: ...\n")
    result = run(package)
    assert result.returncode == 1
    assert "cannot import name" in result.stderr


def test_the_names_are_the_same_whichever_is_picked(package: Path, native: Path) -> None:
    code = (
        "import sserpent; from sserpent import _core; names = _core.MODULES;"
        " print(sorted(sserpent.__all__), *[getattr(_core, name).__name__ for name in names])"
    )
    pure = run(package, code)
    shutil.copy(native, package / "_core")
    compiled = run(package, code)
    assert compiled.returncode == 0, compiled.stderr
    assert compiled.stdout == pure.stdout
