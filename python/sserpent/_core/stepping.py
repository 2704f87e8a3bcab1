"""Stepping coroutines by hand."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any


def step(coroutine: Coroutine[Any, None, object], default: object, /) -> Any:
    """Runs a coroutine to its next suspension.

    Returns:
        What it waits for; `default` if it has ended, whatever it returned.
    """
    try:
        return coroutine.send(None)
    except StopIteration:
        return default


def step_as(
    task: Any,
    current_tasks: Any,
    loop: Any,
    context: Context,
    coroutine: Coroutine[Any, None, object],
    default: object,
    error: BaseException | None = None,
    /,
) -> Any:
    """Runs a coroutine to its next suspension, in a context, as asyncio's current task.

    Args:
        task: The task.
        current_tasks: Where asyncio keeps the current task of each event loop: the dict of them,
            or the function that exchanges one, which it has since Python 3.12.
        loop: The event loop.
        context: The context.
        coroutine: What is run.
        default: What is returned at its end.
        error: What is thrown into it first.

    Returns:
        What it waits for; `default` if it has ended, whatever it returned.
    """
    current = _exchange(current_tasks, loop, task)
    try:
        if error is None:
            return context.run(step, coroutine, default)
        return context.run(coroutine.throw, error)
    except StopIteration:
        return default
    finally:
        _exchange(current_tasks, loop, current)
        error = None  # its traceback refers to this frame


def _exchange(current_tasks: dict[Any, Any] | Callable[..., Any], loop: Any, task: Any) -> Any:
    """Makes a task the current one of its event loop, and returns the one that was."""
    if callable(current_tasks):
        return current_tasks(loop, task)
    current = current_tasks.pop(loop, None)
    if task is not None:
        current_tasks[loop] = task
    return current


async def awaited(awaitable: Any) -> Any:
    """Awaits an object without `__await__`, for the compiled core: Python knows which generators
    are coroutines, and words the error for all else."""
    return await awaitable
