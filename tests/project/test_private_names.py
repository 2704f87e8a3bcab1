"""What is private to others and used all the same: each such name is listed here, and may be gone
in their next release. The import works then, and streams stream."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sserpent

# Each in a process of its own. What is missing does not depend on the core.
pytestmark = pytest.mark.once

PACKAGE = Path(sserpent.__file__).parent

# By name: what takes it away before the import, and what does so afterwards where it is looked up
# each time. Before the import `hide` takes an attribute away until the import is done, since its
# owners use it too.
NAMES = {
    "_current_tasks": ("hide(asyncio.tasks, '_current_tasks')", ""),
    "_swap_current_task": ("hide(asyncio.tasks, '_swap_current_task')", ""),
    "_asyncio_future_blocking": ("replace(asyncio, 'Future', object)", ""),
    "_signal": ("sys.modules['_signal'] = None", ""),
    "_core": ("hide(anyio, '_core')\nsys.modules['anyio._core'] = None", ""),
    "_eventloop": (
        "hide(anyio._core, '_eventloop')\nhide_module('anyio._core._eventloop')",
        "",
    ),
    "claim_worker_thread": ("hide(anyio._core._eventloop, 'claim_worker_thread')", ""),
    "_populate_api_route_state": ("hide(fastapi.routing, '_populate_api_route_state')", ""),
    "_endpoint_context_cache": ("", "without(routing, '_endpoint_context_cache')"),
    "_extract_endpoint_context": (
        "",
        "for each in (routing, endpoint): without(each, '_extract_endpoint_context')",
    ),
    "_type_adapter": (
        "",
        "routing._adapter_of = hiding(routing._adapter_of, '_type_adapter')",
    ),
}

# Of hypercorn's, in a `try`: a stream of HTTP/2 that is cut is not reset without them.
OF_HYPERCORN = {"_close_stream", "_window_updated", "_flush"}
# Of redis-py's, which `test_redis_connections.py` takes away.
OF_REDIS_PY = {"_parser", "_reader", "_writer"}
# Documented by their owners; or no name of an attribute; or set by us.
NOT_PRIVATE = {
    *OF_HYPERCORN,
    *OF_REDIS_PY,
    "_asdict",
    "_replace",
    "_value_",
    "_sa",
    "_sserpent_rules",
}

# Of which of asyncio's a stream cannot do without: each `send` takes a task instead.
OF_ASYNCIO = {
    "_swap_current_task" if sys.version_info >= (3, 12) else "_current_tasks",
    "_asyncio_future_blocking",
}

PROGRAM = """
import asyncio, sys, types, warnings
import anyio, anyio.abc, anyio.from_thread, anyio.lowlevel, anyio.to_thread
import anyio._backends._asyncio, anyio._backends._trio
import fastapi.openapi.utils, fastapi.routing, fastapi.sse, fastapi.testclient
import starlette.middleware.base, starlette.concurrency

hidden = []

def replace(owner, name, value):
    if hasattr(owner, name):
        hidden.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

def hide(owner, name):
    if hasattr(owner, name):
        hidden.append((owner, name, getattr(owner, name)))
        delattr(owner, name)

def hide_module(name):
    hidden.append((sys.modules, name, sys.modules[name]))
    sys.modules[name] = None

class Without:
    def __init__(self, of, name):
        vars(self).update(of=of, name=name)

    def __getattr__(self, name):
        if name == self.name:
            raise AttributeError(name)
        return getattr(self.of, name)

def hiding(function, name):
    return lambda argument: function(Without(argument, name))

def without(module, name):
    shown = types.SimpleNamespace(**vars(module.fastapi))
    shown.routing = Without(shown.routing, name)
    module.fastapi = shown

BEFORE
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import sserpent
    sserpent.EventSourceResponse
for owner, name, value in hidden:
    if owner is sys.modules:
        owner[name] = value
    else:
        setattr(owner, name, value)
for each in warned:
    print("warned:", each.category.__name__, each.message)

import collections.abc
from sserpent._fastapi import endpoint, routing
AFTER
app = fastapi.FastAPI()

@app.get("/async", response_class=sserpent.EventSourceResponse)
async def stream() -> collections.abc.AsyncIterable[int]:
    for number in range(3):
        yield number
        await anyio.sleep(0)

@app.get("/sync", response_class=sserpent.EventSourceResponse)
def sync_stream() -> collections.abc.Iterable[int]:
    yield from range(2)
    yield anyio.from_thread.run(two) if CAN_CALL_BACK else 2

async def two():
    return 2

for backend in ("asyncio", "trio"):
    with fastapi.testclient.TestClient(app, backend=backend) as client:
        for path in ("/async", "/sync"):
            assert client.get(path).text == "data: 0\\n\\ndata: 1\\n\\ndata: 2\\n\\n"
    assert "/async" in client.get("/openapi.json").json()["paths"]
"""


def run(name: str) -> subprocess.CompletedProcess[str]:
    before, after = NAMES.get(name, ("", ""))
    loses_threads = name in ("_core", "_eventloop", "claim_worker_thread")
    program = PROGRAM.replace("BEFORE", before).replace("AFTER", after)
    return subprocess.run(
        [sys.executable, "-c", program.replace("CAN_CALL_BACK", str(not loses_threads))],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("name", ["nothing", *NAMES])
def test_e11_without_it_the_import_works_and_streams_stream(name: str) -> None:
    ended = run(name)
    assert ended.returncode == 0, ended.stderr
    if name in OF_ASYNCIO:
        (line,) = ended.stdout.splitlines()
        assert line.startswith("warned: RuntimeWarning sserpent does not know the asyncio of this")
        assert f"which has no {name}: each send takes a task" in line
    else:
        assert ended.stdout == ""


def private_names() -> Iterator[tuple[str, str]]:
    """Returns the names with one underscore that the package uses and does not define, or looks up
    in something else, each with where it does."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    own = {name for tree in trees.values() for node in ast.walk(tree) for name in defined(node)}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names = [name for name in used(node) if name not in own] + looked_up(node)
            for name in names:
                if re.fullmatch(r"_(?!_)\w+", name):
                    yield name, path.relative_to(PACKAGE).as_posix()


def defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
        yield from ast.literal_eval(node.value)


def used(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif is_text(node):
        yield ast.literal_eval(node)
    elif isinstance(node, ast.Import):
        yield from (part for each in node.names for part in each.name.split("."))
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield from (node.module or "").split(".")
        yield from (each.name for each in node.names)


def looked_up(node: ast.AST) -> list[str]:
    """The name that a call of `getattr` or `hasattr` asks another object for."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr")):
        return []
    owner, name, *_ = node.args
    return [ast.literal_eval(name)] if is_text(name) and ast.unparse(owner) != "self" else []


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_private_name_of_others_is_listed() -> None:
    assert [each for each in private_names() if each[0] not in NAMES.keys() | NOT_PRIVATE] == []
    # The other way round, but for those that the package has names of its own like.
    names = {name for name, _ in private_names()}
    assert {"_swap_current_task", "_signal", "_type_adapter", "_eventloop", *OF_REDIS_PY} <= names
