"""Every public function, method, property and class has a docstring, or implements one that has."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import sserpent

# It reads the sources.
pytestmark = pytest.mark.once

PACKAGE = Path(sserpent.__file__).parent
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def undocumented(source: str) -> Iterator[str]:
    """Yields what is public in a module and has neither a docstring nor one that it implements."""
    for definition in _definitions(ast.parse(source).body):
        if not _is_public(definition):
            continue
        if not ast.get_docstring(definition):
            yield definition.name
        if isinstance(definition, ast.ClassDef):
            for name, member in _members(definition).items():
                if not (ast.get_docstring(member) or _is_inherited(name, definition)):
                    yield f"{definition.name}.{name}"


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Yields the classes and functions of a module or class, those under a condition included."""
    for each in body:
        if isinstance(each, (ast.If, ast.Try)):
            yield from _definitions([*each.body, *each.orelse])
        elif isinstance(each, (ast.ClassDef, *Function)):
            yield each  # type: ignore[misc]


def _members(definition: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """Returns the public methods and properties of a class, by their names."""
    return {
        each.name: each
        for each in _definitions(definition.body)
        if isinstance(each, Function) and _is_public(each)
    }


def _is_public(definition: ast.ClassDef | ast.FunctionDef) -> bool:
    decorators = {ast.unparse(each) for each in definition.decorator_list}
    is_part = "overload" in decorators or any(each.endswith(".setter") for each in decorators)
    return not definition.name.startswith("_") and not is_part


def _is_inherited(name: str, definition: ast.ClassDef) -> bool:
    """Returns whether a base class documents a method, or a protocol that the class fulfils."""
    has = _names(definition)
    protocols = [each for each in _protocols() if _members(each).keys() <= has]
    for each in [*_ancestors(definition), *protocols]:
        member = _members(each).get(name)
        if each is not definition and member is not None and ast.get_docstring(member):
            return True
    return False


def _ancestors(definition: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """Yields the classes of the package that a class inherits from."""
    for base in definition.bases:
        for each in _classes().get(ast.unparse(base).partition("[")[0], []):
            if each is not definition:
                yield each
                yield from _ancestors(each)


def _names(definition: ast.ClassDef) -> set[str]:
    """Returns the names of all attributes of a class's instances."""
    names = set[str]()
    for owner in [definition, *_ancestors(definition)]:
        names |= _members(owner).keys()
        for each in ast.walk(owner):
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                names.add(each.attr)
            elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                names.add(each.id)
    return names


@cache
def _classes() -> dict[str, list[ast.ClassDef]]:
    found: dict[str, list[ast.ClassDef]] = {}
    for path in PACKAGE.rglob("*.py"):
        for each in _definitions(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(each, ast.ClassDef):
                found.setdefault(each.name, []).append(each)
    return found


@cache
def _protocols() -> list[ast.ClassDef]:
    return [
        each
        for classes in _classes().values()
        for each in classes
        if any(ast.unparse(base).startswith("Protocol") for base in each.bases)
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    assert not list(undocumented(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def public(): ...", ["public"]),
        ("def _private(): ...", []),
        ("class Public:\n    def method(self): ...", ["Public", "Public.method"]),
        ("class _Private:\n    def method(self): ...", []),
        ("if DEBUG:\n    def public(): ...", ["public"]),
        ("@overload\ndef public(): ...", []),
        ('class Own(BaseBroker):\n    "Is one."\n    def now(self): ...', []),
        ('class Own:\n    "Is none."\n    def now(self): ...', ["Own.now"]),
        # It fulfils the protocol `_shutdown.streams.Stream`.
        ('class Own:\n    "Is one."\n    def shut_down(self): ...', []),
    ],
)
def test_what_is_found(source: str, found: list[str]) -> None:
    assert list(undocumented(source)) == found
