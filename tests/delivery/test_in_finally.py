"""D7: whether a generator is in its `finally`, which is asked when a client leaves, in the event
loop: without a file that is read and without source that is parsed."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from asgi import Connection
from sserpent import EventSourceResponse
from sserpent._delivery import in_finally

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

# Each line that has to be found says "tidies".
SHAPES = {
    "plain": """
    try:
        await x()
        yield 1
    finally:
        await x("tidies")
    await x()
""",
    "none": """
    async with x:
        async for y in x:
            await x()
            yield y
    try:
        await x()
    except ValueError:
        await x()
    except (KeyError, x.Error) as error:
        await x()
    else:
        await x()
""",
    "except and finally": """
    try:
        yield 1
        await x()
    except ValueError:
        await x()
    except:
        await x()
        raise
    else:
        await x()
    finally:
        if x:
            await x("tidies")
        await x(
            "tidies")
        x.close()
""",
    "nested": """
    try:
        try:
            yield 1
        finally:
            await x("tidies")
        await x()
    finally:
        try:
            await x("tidies")
        except ValueError as error:
            await x("tidies")
        finally:
            await x("tidies")
        async with x("tidies"):
            await x("tidies")
        async for y in x("tidies"):
            await x("tidies")
        [y async for y in x("tidies")]
        while x:
            await x("tidies")
    await x()
""",
    "in loops and with returns": """
    for y in x:
        try:
            yield 1
            if y:
                continue
            await x()
            if not y:
                return
        finally:
            await x("tidies")
        with x:
            await x()
""",
    "in an except": """
    try:
        yield 1
    except ValueError:
        try:
            await x()
        finally:
            await x("tidies")
        await x()
""",
    "on one line": """
    try: yield 1; await x()
    finally: y = await x("tidies")
    await x()
""",
}
if sys.version_info >= (3, 11):
    SHAPES["except star"] = """
    try:
        yield 1
        await x()
    except* ValueError:
        await x()
    finally:
        await x("tidies")
"""


@pytest.mark.parametrize("shape", SHAPES)
def test_d7_the_lines_of_a_finally_are_known_without_its_source(shape: str) -> None:
    source = f"async def content(x):{SHAPES[shape]}"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    found = in_finally.finally_lines(namespace["content"].__code__)
    lines = source.splitlines()
    waits = {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith))
    }
    tidies = {line for line in waits if "tidies" in statement(lines[line - 1 :])}
    assert found & waits == tidies


def statement(lines: list[str]) -> str:
    return lines[0] + (lines[1] if lines[0].endswith("(") else "")


async def left_in_its_finally(content: Callable[..., AsyncIterator[str]]) -> list[str]:
    log: list[str] = []

    async def tidy() -> None:
        await anyio.sleep(5)
        log.append("tidied up")

    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, EventSourceResponse(content(tidy)))
        await anyio.sleep(1)
        connection.disconnect()
    return log


async def tidies_up(tidy: Callable[[], Awaitable[None]]) -> AsyncIterator[str]:
    try:
        yield "a"
    finally:
        await tidy()


async def test_d7_no_file_is_read_when_a_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is raised in the event loop may be logged alone.
    reads: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        reads.append(args)
        raise AssertionError("a file is read, or a source parsed, in the event loop")

    logs: list[list[str]] = []
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", refuse)
        patched.setattr("tokenize.open", refuse)
        patched.setattr("linecache.getlines", refuse)
        patched.setattr("linecache.updatecache", refuse)
        patched.setattr("inspect.getsourcelines", refuse)
        patched.setattr(ast, "parse", refuse)
        logs.append(await left_in_its_finally(tidies_up))
    assert logs == [["tidied up"]]
    assert reads == []


@pytest.mark.parametrize("error", [LookupError, AttributeError, RecursionError])
async def test_d7_bytecode_that_is_not_understood_costs_no_stream(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*args: Any) -> Any:
        raise error

    logs: list[list[str]] = []

    async def content(tidy: Callable[[], Awaitable[None]]) -> AsyncIterator[str]:
        try:
            yield "a"
        finally:
            await tidy()

    with monkeypatch.context() as patched:
        patched.setattr(in_finally, "finally_lines", refuse)
        begin = anyio.current_time()
        logs.append(await left_in_its_finally(content))
        assert anyio.current_time() - begin == pytest.approx(1, abs=0.1)
    assert logs == [[]]
