"""Whether a generator that awaits does so in a `finally` of its own.

A client that leaves while a generator tidies up after itself must not cut that off, but a
cancellation would: Python has no way to ask a coroutine whether it is in a `finally`. Its source
has, and it is read only when a stream ends while its generator waits.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

# The lines of a function's `finally` blocks, first and last.
_known: WeakKeyDictionary[CodeType, list[tuple[int, int]]] = WeakKeyDictionary()

# The statements with a `finally`: with `except*` it is one of its own, from Python 3.11 on.
_Tries: tuple[type[ast.Try], ...] = (ast.Try, getattr(ast, "TryStar", ast.Try))
_Function = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def is_tidying_up(generator: Any) -> bool:
    """Returns whether an async generator waits for something in a `finally` block of its own. Of
    one whose source is not to be had, False."""
    if getattr(generator, "ag_await", None) is None:
        return False
    frame = generator.ag_frame
    return frame is not None and any(
        first <= frame.f_lineno <= last for first, last in _finally_lines(frame.f_code)
    )


def _finally_lines(code: CodeType) -> list[tuple[int, int]]:
    lines = _known.get(code)
    if lines is None:
        try:
            lines = list(_read_finally_lines(code))
        except (OSError, SyntaxError, TypeError):
            lines = []  # no source
        _known[code] = lines
    return lines


def _read_finally_lines(code: CodeType) -> Iterator[tuple[int, int]]:
    source, first = inspect.getsourcelines(code)
    (function, *_) = ast.parse(textwrap.dedent("".join(source))).body
    for block in _finally_blocks(function):
        yield block[0].lineno + first - 1, (block[-1].end_lineno or block[-1].lineno) + first - 1


def _finally_blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    if isinstance(node, _Tries) and node.finalbody:
        yield node.finalbody
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _Function):
            yield from _finally_blocks(child)
