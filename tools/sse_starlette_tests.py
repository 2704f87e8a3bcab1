"""Runs the tests of `sse-starlette`'s own sdist on `sserpent.compat.sse_starlette`.

    python tools/sse_starlette_tests.py [options of pytest]

`tests/compat/sse_starlette_differences.txt` has the tests that are to fail, with the reason of
each. The run fails if one of them passes, or another one fails.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SDIST = "sse-starlette==3.7.0"
DIFFERENCES = Path(__file__).parents[1] / "tests/compat/sse_starlette_differences.txt"

# Their package, by another name of ours. Their own tests look at private names too.
SHIM = """\
import anyio
from sserpent.compat.sse_starlette import *
from sserpent.compat.sse_starlette import AppStatus

def __getattr__(name):
    if name.startswith("__") or not name.startswith("_"):
        raise AttributeError(name)
    return None
"""
# The sdist has neither of these two.
ANYIO_COMPAT = """\
from contextlib import contextmanager

@contextmanager
def collapse_excgroups():
    try:
        yield
    except BaseException as error:
        while len(getattr(error, "exceptions", [])) == 1:
            error = error.exceptions[0]
        raise error
"""
CONFTEST = """\
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from sse_starlette.sse import AppStatus

reasons = {}
for line in Path(DIFFERENCES).read_text().splitlines():
    if line.startswith("# "):
        reason = line[2:]
    elif line:
        pattern, _, by_the_clock = line.partition(" ")  # then it passes on a slow machine
        reasons[pattern] = reason, not by_the_clock


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def reset_app_status():
    yield
    AppStatus.should_exit = False
    AppStatus.enable_automatic_graceful_drain = True
    AppStatus.original_handler = None


def pytest_collection_modifyitems(config, items):
    unused = dict(reasons)
    for item in items:
        name = item.nodeid.removeprefix("tests/").replace("[", "(").replace("]", ")")
        for pattern, (reason, is_certain) in reasons.items():
            if fnmatchcase(name, pattern.replace("[", "(").replace("]", ")")):
                unused.pop(pattern, None)
                item.add_marker(pytest.mark.xfail(reason=reason, strict=is_certain))
                break
    if unused:
        raise pytest.UsageError("differences that are no tests: " + ", ".join(unused))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--no-binary", ":all:", "--dest", folder, SDIST], check=True)
        shutil.unpack_archive(next(place.glob("*.tar.gz")), place)
        root = next(each for each in place.iterdir() if each.is_dir())
        shutil.rmtree(root / "sse_starlette")
        (root / "sse_starlette").mkdir()
        for module in ("__init__", "event", "sse"):
            (root / "sse_starlette" / f"{module}.py").write_text(SHIM)
        (root / "tests" / "anyio_compat.py").write_text(ANYIO_COMPAT)
        (root / "tests" / "conftest.py").write_text(
            f"DIFFERENCES = {str(DIFFERENCES)!r}\n{CONFTEST}"
        )
        options = [
            "-q",
            "-o",
            "anyio_mode=auto",
            "-o",
            "asyncio_mode=strict",
            "-p",
            "no:cacheprovider",
        ]
        command = [sys.executable, "-m", "pytest", *options, *sys.argv[1:], "tests"]
        return subprocess.run(command, cwd=root).returncode


if __name__ == "__main__":
    sys.exit(main())
