"""Events nested in each other's data: an error where something has to fail, never the end of the
interpreter. Each test has a process of its own, because a stack that overflows ends it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

# Each in a process of its own that names its backend.
pytestmark = pytest.mark.once

DEPTH = 100_000
# How an event is put into the data of the next one.
CONTAINERS = {"event": "event", "list": "[event]", "tuple": "(event,)", "dict": "{'a': event}"}
# Each with the error that it raises for events right in each other's data, if it raises one.
OPERATIONS = {
    "hash(nested)": RecursionError,
    "nested == nest()": RecursionError,
    "repr(nested)": RecursionError,
    "nested.encode()": ValueError,
    "core.Buffer().push(nested)": ValueError,
    "pickle.dumps(nested)": RecursionError,
    "copy.copy(nested)": None,
    "copy.deepcopy(nested)": RecursionError,
    "gc.collect()": None,
}
PROGRAM = """
import copy, gc, pickle, threading
import sserpent
from sserpent._core import {module} as core

sserpent.ServerSentEvent = core.ServerSentEvent  # whose name a pickle has
class Event(core.ServerSentEvent): ...

def nest():
    event = {make}(event="innermost")
    for _ in range({depth}):
        event = {make}(data={container})
    return event

nested = nest()
"""


def run(core: ModuleType, code: str, container: str = "event", make: str = "") -> str:
    module = core.__name__.rpartition(".")[2]
    make = make or "core.ServerSentEvent"
    program = PROGRAM.format(module=module, make=make, depth=DEPTH, container=container)
    done = subprocess.run(
        [sys.executable, "-c", program + code], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("make", ["core.ServerSentEvent", "Event"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_they_are_dropped(core: ModuleType, container: str, make: str) -> None:
    code = """
import weakref
innermost = nested
while innermost.data is not None:
    innermost = innermost.data
    if not isinstance(innermost, core.ServerSentEvent):
        innermost = innermost["a"] if isinstance(innermost, dict) else innermost[0]
reference = weakref.ref(innermost)
del innermost, nested
print(reference() is None)
"""
    assert run(core, code, CONTAINERS[container], make) == "True\n"


def test_they_are_dropped_in_a_thread(core: ModuleType) -> None:
    code = """
held = [nested]
del nested
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
print(held)
"""
    assert run(core, code) == "[]\n"


def test_an_object_between_them_may_use_events_while_it_is_dropped(core: ModuleType) -> None:
    code = """
class Last:
    def __del__(self):
        nest()
        print("dropped")

del nested
event = core.ServerSentEvent(data=Last())
for _ in range(1_000):
    event = core.ServerSentEvent(data=event)
del event
"""
    assert run(core, code) == "dropped\n"


ATTEMPTS = """
for operation in {operations}:
    try:
        eval(operation)
    except Exception as error:
        print(operation, type(error).__name__)
    else:
        print(operation, None)
"""


def attempts(core: ModuleType, container: str) -> dict[str, str]:
    """The name of what each operation raises, or "None"."""
    shown = run(core, ATTEMPTS.format(operations=list(OPERATIONS)), CONTAINERS[container])
    return dict(line.rsplit(" ", 1) for line in shown.splitlines())


def test_operations_on_them_fail_or_succeed(core: ModuleType) -> None:
    expected = {
        operation: error.__name__ if error else "None" for operation, error in OPERATIONS.items()
    }
    assert attempts(core, "event") == expected


@pytest.mark.parametrize("container", ["list", "tuple", "dict"])
def test_operations_on_them_in_containers_do_not_crash(core: ModuleType, container: str) -> None:
    raised = attempts(core, container)
    assert list(raised) == list(OPERATIONS)
    assert set(raised.values()) <= {"None", "RecursionError", "TypeError", "ValueError"}
