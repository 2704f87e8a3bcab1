"""Events nested in each other's data: an error where something has to fail, never the end of the
interpreter. Each test has a process of its own, because a stack that overflows ends it; the last
line that it printed says how far it got."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

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

CONTAINERS = {containers}

def nest(make=core.ServerSentEvent, container="event"):
    put_into = eval("lambda event: " + CONTAINERS[container])
    event = make(event="innermost")
    for _ in range({depth}):
        event = make(data=put_into(event))
    return event
"""


def run(core: ModuleType, code: str) -> str:
    module = core.__name__.rpartition(".")[2]
    program = PROGRAM.format(module=module, depth=DEPTH, containers=CONTAINERS)
    done = subprocess.run(
        [sys.executable, "-c", program + code], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout}"
    return done.stdout


def test_they_are_dropped(core: ModuleType) -> None:
    code = """
import weakref
for make in (core.ServerSentEvent, Event):
    for container in CONTAINERS:
        nested = nest(make, container)
        innermost = nested
        while innermost.data is not None:
            innermost = innermost.data
            if not isinstance(innermost, core.ServerSentEvent):
                innermost = innermost["a"] if isinstance(innermost, dict) else innermost[0]
        reference = weakref.ref(innermost)
        del innermost, nested
        print(make.__name__, container, reference() is None, flush=True)
"""
    assert run(core, code).splitlines() == [
        f"{make} {container} True"
        for make in ("ServerSentEvent", "Event")
        for container in CONTAINERS
    ]


def test_they_are_dropped_in_a_thread(core: ModuleType) -> None:
    code = """
held = [nest()]
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

event = core.ServerSentEvent(data=Last())
for _ in range(1_000):
    event = core.ServerSentEvent(data=event)
del event
"""
    assert run(core, code) == "dropped\n"


def test_operations_on_them_fail_or_succeed(core: ModuleType) -> None:
    code = f"""
for container in CONTAINERS:
    nested = nest(container=container)
    for operation in {list(OPERATIONS)}:
        try:
            eval(operation)
        except Exception as error:
            raised = type(error).__name__
        else:
            raised = None
        print(container, operation, raised, sep="; ", flush=True)
"""
    shown = dict(line.rsplit("; ", 1) for line in run(core, code).splitlines())
    assert list(shown) == [
        f"{each}; {operation}" for each in CONTAINERS for operation in OPERATIONS
    ]
    for operation, error in OPERATIONS.items():
        assert shown[f"event; {operation}"] == (error.__name__ if error else "None")
    # In containers not each of them has to fail.
    assert set(shown.values()) <= {"None", "RecursionError", "TypeError", "ValueError"}
