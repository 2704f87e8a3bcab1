"""Who may import whom: each package of ours keeps to the ones below it, so that each can be read,
and changed, without the rest."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sserpent
from pages import DOCS, PROJECT

# It reads the sources.
pytestmark = pytest.mark.once

PACKAGE = Path(sserpent.__file__).parent
ROOTS = {"sserpent": PACKAGE, "benches": PROJECT / "benches"}

# What a package may import of ours besides itself: packages or modules, with all that is in them.
# A package may be one module.
OURS: dict[str, set[str]] = {
    "_core": set(),
    "_runtime": set(),
    "_shutdown": {"_runtime"},
    "_delivery": {"_core", "_runtime", "_shutdown"},
    "_fastapi": {"_core", "_delivery", "_runtime", "_shutdown"},
    "channels": {"_core", "_delivery", "_fastapi", "_runtime", "_shutdown"},
    "client": {"_core", "_runtime"},
    "compat": {"_runtime", "_shutdown", "(public names)"},
    # The command: `python -m sserpent`.
    "_cli": {"client"},
    "__main__": {"_cli"},
    "metrics": {"_delivery.observer"},
    "protocols": {"_core", "_fastapi", "(public names)"},
    # The parser is that of `client`: its events equal those that a test makes.
    "testing": {"_runtime", "_shutdown", "client", "(public names)"},
    # `sserpent/__init__.py` has the public names, and loads what they need.
    "": {"_core", "_delivery", "_fastapi", "_shutdown"},
}
# What a package may not import of others, and what is excepted.
FOREIGN: dict[str, tuple[set[str], set[str]]] = {
    "_core": (
        {"fastapi", "pydantic", "pydantic_core", "starlette", "anyio", "trio", "asyncio"},
        set(),
    ),
    "_core.conversion": ({"starlette", "anyio", "trio", "asyncio"}, set()),
    "_core.decoding": ({"fastapi", "starlette", "anyio", "trio", "asyncio"}, set()),
    "client": ({"fastapi", "starlette", "pydantic", "pydantic_core"}, set()),
    "_delivery": ({"fastapi", "starlette"}, {"starlette.types"}),
}
# Each only in the module or package that is an optional extra.
EXTRAS = {"hiredis": "channels.redis", "redis": "channels.redis"}
# Loaded on first use.
OPTIONAL = ["_cli", "channels", "client", "compat", "metrics", "protocols", "testing"]


@dataclass
class Import:
    line: int
    target: str  # the dotted name of a module, absolute


def imports(module: str, is_package: bool, source: str, root: str = "sserpent") -> Iterator[Import]:
    """Every import of a module, those in functions and those for type checkers included.

    Args:
        module: The dotted name of the module, without the root.
        is_package: Whether it is the `__init__` of a package.
        source: Its code.
        root: The name of the package that it is in.
    """
    path = [root, *filter(None, module.split("."))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            parent = path[: len(path) - node.level + is_package] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield Import(node.lineno, name if is_module(name) else base)


def is_module(name: str) -> bool:
    first, *rest = name.split(".")
    if first not in ROOTS:
        return name == "starlette.types"
    path = ROOTS[first].joinpath(*rest)
    return path.is_dir() or path.with_suffix(".py").exists() or rest[0] in OURS


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def broken_rule(module: str, target: str) -> str | None:
    """The rule that an import breaks, in words; none if it breaks none."""
    package = module.split(".")[0]
    if target == "sserpent" or target.startswith("sserpent."):
        name = target.removeprefix("sserpent").removeprefix(".") or "(public names)"
        allowed = OURS[package]
        if within(name, allowed | ({package} if package else set())):
            return None
        of_ours = ", ".join(sorted(allowed)) or "nothing"
        return f"'{package or 'sserpent'}' may import of ours: {of_ours}"
    root = target.split(".")[0]
    if root in EXTRAS and not within(module, {EXTRAS[root]}):
        return f"'{root}' is imported by '{EXTRAS[root]}' alone"
    forbidden, excepted = FOREIGN.get(module) or FOREIGN.get(package) or (set(), set())
    if root in forbidden and not within(target, excepted):
        return f"'{package}' may not import {root}" + "".join(f", but {each}" for each in excepted)
    return None


def check(module: str, is_package: bool, source: str) -> list[str]:
    found = []
    for each in imports(module, is_package, source):
        rule = broken_rule(module, each.target)
        if rule is not None:
            name = f"sserpent.{module}".rstrip(".")
            found.append(f"{name}, line {each.line}, imports {each.target}: {rule}")
    return found


@cache
def architecture() -> str:
    return (DOCS / "architecture.md").read_text(encoding="utf-8")


@cache
def modules(root: str = "sserpent") -> dict[str, Path]:
    found = {}
    for path in sorted(ROOTS[root].rglob("*.py")):
        parts = path.relative_to(ROOTS[root]).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_what_its_package_may(module: str) -> None:
    path = modules()[module]
    broken = check(module, path.stem == "__init__", path.read_text(encoding="utf-8"))
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("module", modules())
def test_a_module_is_named_on_the_page_of_the_architecture(module: str) -> None:
    package, _, name = module.rpartition(".")
    path = module.replace(".", "/")
    if modules()[module].stem == "__init__":
        assert f"`{path}/`" in architecture() or not module, f"'{path}/' has no row"
    elif not package:
        assert f"`{name}`" in architecture(), f"'{name}' has no row"
    else:
        row = row_of(package.replace(".", "/"))
        assert f"`{name}`" in row, f"the row of '{package}' does not say what '{name}' is for"


def row_of(package: str) -> str:
    """Returns what the page says of a package."""
    return next(row for row in architecture().splitlines() if row.startswith(f"| `{package}/` |"))


def imported_modules(
    module: str, is_package: bool, source: str, root: str = "sserpent"
) -> set[str]:
    """Returns the modules of ours that a module imports, those for type checkers included."""
    found = set()
    for each in imports(module, is_package, source, root):
        if each.target.split(".")[0] == root:
            name = each.target.removeprefix(root).removeprefix(".")
            while name not in modules(root):  # a name in it
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {module}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@cache
def import_graph(root: str = "sserpent") -> dict[str, set[str]]:
    """Returns the modules that each module imports."""
    return {
        module: imported_modules(module, path.stem == "__init__", path.read_text("utf-8"), root)
        for module, path in modules(root).items()
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(import_graph()) == []
    assert "_core.json" in import_graph()["_core.buffer"]


def test_no_modules_of_the_benchmarks_import_each_other_in_a_circle() -> None:
    assert circle(import_graph("benches")) == []
    assert "harness.callgrind" in import_graph("benches")["channels.fanout"]


def test_no_packages_of_channels_import_each_other_in_a_circle() -> None:
    packages = {module for module, path in modules().items() if path.stem == "__init__"}

    def room(module: str) -> str:
        """Returns the package that a module is in; modules beside the packages are rooms alone."""
        package = module if module in packages else module.rpartition(".")[0]
        return module if package == "channels" else package

    graph: dict[str, set[str]] = {}
    for module, found in import_graph().items():
        if module.startswith("channels."):
            rooms = {room(each) for each in found if each.startswith("channels.")}
            graph.setdefault(room(module), set()).update(rooms - {room(module)})
    assert circle(graph) == []
    assert "channels.redis.client" in graph["channels.redis"]


def test_a_circle_is_found_also_where_it_is_for_type_checkers_alone() -> None:
    wire = "if TYPE_CHECKING:\n from .life import Ending"
    graph = {
        "_delivery.wire": imported_modules("_delivery.wire", False, wire),
        "_delivery.life": imported_modules("_delivery.life", False, "from . import wire"),
    }
    assert set(circle(graph)) == {"_delivery.wire", "_delivery.life"}


def test_every_package_is_in_the_table() -> None:
    assert {module.split(".")[0] for module in modules()} <= set(OURS)


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("_core.json", "import fastapi.sse", "'_core' may not import fastapi"),
        ("_core.json", "from pydantic import BaseModel", "'_core' may not import pydantic"),
        ("_core.conversion", "from pydantic import BaseModel", None),
        ("_core.json", "from .conversion import to_json", None),
        ("_core.json", "from .. import _shutdown", "'_core' may import of ours: nothing"),
        ("_shutdown.servers", "def f():\n from .._core import step", "ours: _runtime"),
        ("_delivery.stream", "from .._core import Buffer\nfrom .. import _shutdown", None),
        ("_delivery.stream", "from starlette.types import Send", None),
        ("_delivery.stream", "from starlette import types", None),
        ("_delivery.stream", "from starlette.responses import Response", "but starlette.types"),
        ("_delivery.stream", "if TYPE_CHECKING:\n from fastapi import FastAPI", "import fastapi"),
        ("_delivery.stream", "from .._fastapi.response import A", "ours: _core, _runtime"),
        ("_delivery.stream", "from .. import ServerSentEvent", "ours: _core, _runtime"),
        ("channels.history.memory", "from ..._delivery.wire import KEEPALIVE_COMMENT", None),
        ("channels.history.memory", "from ...metrics import Metrics", "ours: _core, _delivery"),
        ("channels.history.memory", "import redis.asyncio", "'channels.redis' alone"),
        ("channels.redis", "import redis.asyncio", None),
        ("channels.redis.client.connection", "import redis.asyncio", None),
        ("client.parser", "from .._core import BACKEND", None),
        ("client.parser", "from ..channels import Channels", "ours: _core"),
        ("metrics", "from .channels import history", "_delivery.observer"),
        ("testing", "from . import ServerSentEvent", None),
        ("testing", "from sserpent import ServerSentEvent", None),
        ("testing", "from sserpent.client import EventStreamParser", None),
        (
            "testing",
            "from sserpent._core.parse import Parser",
            "(public names), _runtime, _shutdown",
        ),
        ("testing", "from .metrics import Metrics", "(public names), _runtime, _shutdown"),
        ("", "from . import testing", "'sserpent' may import of ours"),
    ],
)
def test_the_check_finds_what_is_broken(module: str, source: str, broken: str | None) -> None:
    found = check(module, module == "", source)
    if broken is None:
        assert found == []
    else:
        (message,) = found
        assert broken in message
        assert f"line {source.count(chr(10)) + 1}," in message


def test_the_package_loads_no_part_that_it_may_not_need() -> None:
    code = f"""
import sserpent, sys
print([name for name in {OPTIONAL} if f"sserpent.{{name}}" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
