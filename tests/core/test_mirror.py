"""The compiled core shows what its twin shows: documentation, signatures, refusals of arguments."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sserpent._core import MODULES, pure

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "rust_docs.py"))

# Each holds one backend against the other, by name.
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Any:
    if request.config.getoption("--no-native"):
        pytest.skip("--no-native")
    return importlib.import_module("sserpent._core.compiled")


# Every public class, method, property and function of the twin, by its path.
DOCUMENTED: dict[str, str] = dict(TOOL["documented"]())


def at(core: Any, path: str) -> Any:
    for name in path.split("."):
        core = getattr(core, name)
    return core


def test_the_crate_has_the_documentation_of_the_twin_as_it_is_now() -> None:
    written = TOOL["TARGET"].read_text(encoding="utf-8")
    assert written == TOOL["as_rust"](), "run `python tools/rust_docs.py`, and build"


@pytest.mark.parametrize("path", DOCUMENTED)
def test_the_documentation_is_equal(compiled: Any, path: str) -> None:
    assert inspect.getdoc(at(compiled, path)) == DOCUMENTED[path]


@pytest.mark.parametrize("path", DOCUMENTED)
def test_the_signature_is_equal(compiled: Any, path: str) -> None:
    of_twin, own = at(pure, path), at(compiled, path)
    assert callable(of_twin) == callable(own)
    assert parameters(own) == parameters(of_twin)


def parameters(value: Any) -> list[tuple[str, Any, Any]]:
    if not callable(value) or (isinstance(value, type) and issubclass(value, Exception)):
        return []  # a property, or of Python
    found = inspect.signature(value).parameters.values()
    return [(each.name, each.kind, each.default) for each in found if each.name != "self"]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_public_in_one_alone(compiled: Any, name: str) -> None:
    def public(core: Any) -> set[str]:
        return {each for each in dir(getattr(core, name)) if not each.startswith("_")}

    # The twin awaits a generator.
    of_awaited = {"throw", "close"} if name == "Pump" else set[str]()
    assert public(compiled) - of_awaited == public(pure)


def test_help_reads_well(core: Any) -> None:
    shown = pydoc.plain(pydoc.render_doc(core.ServerSentEvent))
    assert "class ServerSentEvent in module sserpent\n" in shown
    # From Python 3.14 on, each parameter has a line of its own.
    assert re.search(r"ServerSentEvent\([\s|]*\*,[\s|]*data", shown)
    for words in ("One event, to be yielded", "The event type, or None.", "Returns the event in"):
        assert words in shown
    assert "stub" not in shown
    shown = pydoc.plain(pydoc.render_doc(core.format_sse_event))
    assert "function format_sse_event in module sserpent\n" in shown
    assert core.format_sse_event.__module__ == "sserpent"


def to_json(value: object) -> bytes:
    return b"1"


def schema(core: Any, **changed: Any) -> Any:
    arguments = {"validate": id, "validate_options": {}, "to_json": to_json, "json_options": {}}
    return core.ItemSchema(**{**arguments, **changed})


MANY = {f"option_{number}": number for number in range(20)}


@pytest.mark.parametrize(
    "call",
    [
        lambda core: core.Buffer({}),
        lambda core: core.Buffer(rules=1),
        lambda core: core.Buffer(max_pending=1.5),
        lambda core: core.Buffer(max_age="1"),
        lambda core: core.DeclaredEvents([], {}, print),
        lambda core: core.Buffer(core.DeclaredEvents({}, {}, lambda _: (1, 2))).push(1),
        lambda core: core.Buffer(core.DeclaredEvents({}, {int: 7}, print)).push(1),
        lambda core: schema(core, json_options=[]),
        lambda core: schema(core, json_options={1: 2}),
        lambda core: schema(core, json_options=MANY),
        lambda core: schema(core, valid_class=1),
    ],
)
def test_what_only_our_own_code_could_pass_is_an_error_at_worst(
    compiled: Any, call: Callable[[Any], Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        call(compiled)


@pytest.mark.parametrize("max_age", [-1, float("nan"), float("inf")])
def test_an_age_that_is_no_duration_does_no_harm(compiled: Any, max_age: float) -> None:
    assert compiled.Buffer(max_age=max_age).push(1) is False


def test_unusual_arguments_are_taken(core: Any) -> None:
    for arguments in (
        {"max_pending": 10**30},
        {"max_pending": 10**30, "max_age": 1e300},
        {"max_pending": 10**30, "max_age": 10**30},
    ):
        buffer = core.Buffer(**{"max_age": 1_000, **arguments})
        assert buffer.push(1) is False
    assert core.Buffer(max_pending=0).push(1) is True
    assert core.Buffer(max_pending=True).push(1) is True
    few = dict(list(MANY.items())[:16])
    buffer = core.Buffer(
        core.ItemSchema(lambda item, **_: item, few, lambda item, **given: b"%d" % len(given), few)
    )
    buffer.push(1)
    assert buffer.take() == b"data: 16\n\n"
