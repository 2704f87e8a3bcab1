"""What `make test-compat` does with the list of differences, on tests that need no download."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pages import PROJECT

CONFTEST = runpy.run_path(str(PROJECT / "tools" / "sse_starlette_tests.py"))["CONFTEST"]
TESTS = """
import pytest

def test_same():
    pass

@pytest.mark.parametrize("way", ["a", "b"])
def test_different(way):
    assert False
"""
LISTED = "# A reason.\ntest_theirs.py::test_different[*\n"


@pytest.mark.once
@pytest.mark.parametrize(
    ("listed", "code", "said"),
    [
        (LISTED, 0, "1 passed, 2 xfailed"),
        (LISTED + "test_theirs.py::test_same\n", 1, "[XPASS(strict)] A reason."),
        (LISTED + "test_theirs.py::test_same by the clock\n", 0, "2 xfailed, 1 xpassed"),
        (LISTED + "test_theirs.py::test_gone\n", 4, "no tests: test_theirs.py::test_gone"),
        ("# A reason.\ntest_theirs.py::test_different[a]\n", 1, "1 failed, 1 passed, 1 xfailed"),
    ],
    ids=[
        "as listed",
        "one that passes",
        "one that may pass",
        "one that is gone",
        "one that is not listed",
    ],
)
def test_e4_the_run_fails_unless_exactly_the_tests_that_are_listed_differ(
    tmp_path: Path, listed: str, code: int, said: str
) -> None:
    differences = tmp_path / "differences.txt"
    differences.write_text(listed)
    package, tests = tmp_path / "sse_starlette", tmp_path / "tests"
    package.mkdir()
    (package / "sse.py").write_text("class AppStatus:\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests.mkdir()
    (tests / "conftest.py").write_text(f"DIFFERENCES = {str(differences)!r}\n{CONFTEST}")
    (tests / "test_theirs.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
