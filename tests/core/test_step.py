"""`step`, over both backends: a coroutine's next suspension, without an exception at its end."""

from __future__ import annotations

from collections.abc import Generator
from contextvars import ContextVar, copy_context
from types import ModuleType, coroutine
from typing import Any

import pytest

# Each over both backends, by the fixture `core` alone.
pytestmark = pytest.mark.once

ENDED = object()


@coroutine
def suspended(value: object) -> Generator[Any, Any, Any]:
    return (yield value)


async def never_suspends() -> str:
    return "a result"


@pytest.mark.parametrize("value", [None, 7, ENDED, ...])
def test_it_answers_what_the_coroutine_waits_for(core: ModuleType, value: object) -> None:
    async def waits() -> None:
        assert await suspended(value) is None
        assert await suspended("again") is None

    waiting = waits()
    assert core.step(waiting, "ended") is value
    assert core.step(waiting, "ended") == "again"
    assert core.step(waiting, "ended") == "ended"


def test_it_answers_the_default_at_the_end_whatever_the_result(core: ModuleType) -> None:
    assert core.step(never_suspends(), ENDED) is ENDED
    assert core.step(never_suspends(), None) is None


@pytest.mark.parametrize("error", [LookupError("oh"), KeyboardInterrupt(), GeneratorExit()])
def test_errors_pass_through(core: ModuleType, error: BaseException) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        core.step(fails(), ENDED)
    assert caught.value is error


def test_a_stop_iteration_of_the_coroutine_is_an_error(core: ModuleType) -> None:
    """PEP 479: it must not look like the end."""

    async def fails() -> None:
        raise StopIteration("not an end")

    with pytest.raises(RuntimeError, match="StopIteration"):
        core.step(fails(), ENDED)


def test_a_coroutine_that_has_ended_or_runs_is_refused(core: ModuleType) -> None:
    async def steps_itself() -> None:
        core.step(itself, ENDED)

    itself = steps_itself()
    with pytest.raises(ValueError, match="already executing"):
        core.step(itself, ENDED)
    with pytest.raises(RuntimeError, match="already awaited"):
        core.step(itself, ENDED)


def test_other_things_are_refused(core: ModuleType) -> None:
    with pytest.raises(AttributeError, match="send"):
        core.step(object(), ENDED)
    with pytest.raises(TypeError):
        core.step(never_suspends)


def test_objects_with_send_are_stepped_too(core: ModuleType) -> None:
    class Steps:
        """What compilers of Python make of a coroutine."""

        def __init__(self) -> None:
            self.left = 1

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            return self.send(None)

        def send(self, value: object) -> int:
            assert value is None
            if not self.left:
                raise StopIteration("a result")
            self.left -= 1
            return 42

    steps = Steps()
    assert core.step(steps, ENDED) == 42
    assert core.step(steps, ENDED) is ENDED


@pytest.mark.parametrize("is_current", [True, False])
def test_step_as_makes_a_task_the_current_one_in_a_context(
    core: ModuleType, is_current: bool
) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="outside")
    loop, before = object(), object()
    current = {loop: before} if is_current else {}

    def exchange(loop: object, task: object) -> object:
        previous = current.pop(loop, None)
        if task is not None:
            current[loop] = task
        return previous

    async def waits() -> None:
        variable.set("inside")
        try:
            await suspended(current[loop])
        except KeyError:
            await suspended((variable.get(), current[loop]))

    for current_tasks in (current, exchange):
        kept = dict(current)
        coroutine = waits()
        arguments = "a task", current_tasks, loop, copy_context(), coroutine, ENDED
        assert core.step_as(*arguments) == "a task"
        assert core.step_as(*arguments, KeyError()) == ("inside", "a task")
        assert core.step_as(*arguments) is ENDED
        with pytest.raises(RuntimeError, match="cannot reuse"):
            core.step_as(*arguments)
        assert (variable.get(), current) == ("outside", kept)


def test_a_current_task_that_somebody_else_has_removed_is_no_error(core: ModuleType) -> None:
    loop, current = object(), dict[Any, Any]()

    async def removes() -> None:
        current.clear()

    assert core.step_as("a task", current, loop, copy_context(), removes(), ENDED) is ENDED
    assert current == {}
