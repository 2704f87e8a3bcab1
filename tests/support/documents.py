"""Pages of `docs/` whose tables name the tests that hold each rule, and the check that they exist.

A test is named `test_file.py::test_name`, or with a case in brackets: a whole ID of pytest's, or
one or more of the parts that pytest joins with hyphens.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
_REFERENCE = re.compile(r"`(test_\w+\.py)::(test_\w+)(?:\[([^\]]+)\])?`")


class Reference(NamedTuple):
    """A test that a page names."""

    file: str
    test: str
    case: str  # empty for all


def document(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def references(text: str) -> list[Reference]:
    return [Reference(*found) for found in _REFERENCE.findall(text)]


def rows(text: str) -> list[list[str]]:
    """The rows of a page's tables, without their heads, as cells."""
    found = []
    in_body = False
    for line in text.splitlines():
        if not line.startswith("|"):
            in_body = False
        elif line.startswith("| ---"):
            in_body = True
        elif in_body:
            found.append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return found


def missing_tests(named: list[Reference]) -> list[Reference]:
    """Those whose function is in no file of that name."""
    return [each for each in named if each.test not in _functions_of(each.file)]


def missing_cases(named: list[Reference]) -> list[Reference]:
    """Those whose case pytest does not collect."""
    with_case = [each for each in named if each.case]
    if not with_case:
        return []
    collected = _collected(tuple(sorted({each.file for each in with_case})))
    return [each for each in with_case if not any(_is_of(name, each) for name in collected)]


@cache
def _functions_of(file: str) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for path in TESTS.rglob(file)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, functions)
    }


@cache
def _collected(files: tuple[str, ...]) -> list[str]:
    paths = [str(path) for file in files for path in TESTS.rglob(file)]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *paths], cwd=TESTS.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def _is_of(name: str, reference: Reference) -> bool:
    path, _, rest = name.partition("::")
    test, _, parameters = rest.removesuffix("]").partition("[")
    return (
        Path(path).name == reference.file
        and test == reference.test
        and f"-{reference.case}-" in f"-{parameters}-"
    )
