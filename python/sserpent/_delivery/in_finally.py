"""Whether a generator that awaits does so in a `finally` of its own.

A client that leaves while a generator tidies up after itself must not cut that off, but a
cancellation would: Python has no way to ask a coroutine whether it is in a `finally`. Its bytecode
has. Nothing is read from a file and no source is parsed, because this is asked in the event loop.

The compiler writes a `finally` block more than once, with the same line numbers: for each way out
of its `try`, and as the handler of any exception. Only the last can be told from other code, so its
lines are looked up, and compared with the line in which the generator waits.
https://github.com/python/cpython/blob/main/InternalDocs/exception_handling.md
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from types import AsyncGeneratorType, CodeType, FrameType, GeneratorType
from typing import Any
from weakref import WeakKeyDictionary

from .._runtime.log import logger

# The lines of a function's `finally` blocks.
_known: WeakKeyDictionary[CodeType, frozenset[int]] = WeakKeyDictionary()

# A handler that begins so is no `finally`: it drops the exception (a bare `except`, the end of an
# `async for`), or tells a context manager of it.
_NO_FINALLY = {"END_ASYNC_FOR", "POP_TOP", "WITH_EXCEPT_START"}
# Nor is one that looks what the exception is (`except`) before it comes to an end of its code.
_LOOKS = {"CHECK_EG_MATCH", "CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH"}
_ENDS = {"PUSH_EXC_INFO", "RAISE_VARARGS", "RERAISE", "RETURN_CONST", "RETURN_VALUE"}
# Where another block begins, until Python 3.10.
_BEGINS = {"SETUP_ASYNC_WITH", "SETUP_FINALLY", "SETUP_WITH"}
# Instructions of a handler that are no statement's.
_BRACKETS = {"COPY", "POP_EXCEPT", "PUSH_EXC_INFO", "RERAISE"}

_TELLING = _BEGINS | _ENDS | _LOOKS

_Instructions = dict[int, dis.Instruction]


def is_tidying_up(generator: Any) -> bool:
    """Returns whether an async generator waits for something in a `finally` block of its own. Of
    one that is not Python's, or whose bytecode is not understood, False. Never raises an
    Exception."""
    if not isinstance(generator, AsyncGeneratorType) or generator.ag_await is None:
        return False
    return _is_at_finally(generator.ag_frame)


def is_in_finally(generator: Any) -> bool:
    """Returns whether a sync generator that runs, in a thread that waits, does so in a `finally`
    block of its own; otherwise as `is_tidying_up`."""
    return isinstance(generator, GeneratorType) and _is_at_finally(generator.gi_frame)


def _is_at_finally(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_lineno in _lines_of(frame.f_code)


def _lines_of(code: CodeType) -> frozenset[int]:
    lines = _known.get(code)
    if lines is None:
        try:
            lines = finally_lines(code)
        except Exception:  # a later Python may compile in another way
            logger.debug("The bytecode of %s is not understood", code, exc_info=True)
            lines = frozenset[int]()
        _known[code] = lines
    return lines


def finally_lines(code: CodeType) -> frozenset[int]:
    """Returns the lines of the statements in the `finally` blocks of a function."""
    instructions = {each.offset: each for each in dis.get_instructions(code)}
    lines = {
        offset: line
        for start, end, line in code.co_lines()
        for offset in range(start, end, 2)
        if line is not None
    }
    return frozenset(
        lines[offset]
        for offset in _offsets(code, instructions)
        if offset in lines and instructions[offset].opname not in _BRACKETS
    )


def _is_finally(instructions: _Instructions, handler: int) -> bool:
    """Returns whether the handler at an offset is that of a `finally`."""
    names = [each.opname for offset, each in instructions.items() if offset >= handler]
    if names[0] == "PUSH_EXC_INFO":
        del names[0]
    told = next((name for name in names if name in _TELLING), None)
    return names[0] not in _NO_FINALLY and told not in _LOOKS


if sys.version_info >= (3, 11):

    def _offsets(code: CodeType, instructions: _Instructions) -> Iterator[int]:
        """Returns the offsets of the instructions in handlers of `finally` blocks."""
        entries: list[Any] = dis.Bytecode(code).exception_entries
        handler_of = {
            offset: entry.target for entry in entries for offset in range(entry.start, entry.end, 2)
        }
        handlers = {
            handler
            for handler in set(handler_of.values())
            if instructions[handler].opname == "PUSH_EXC_INFO"
            and _is_finally(instructions, handler)
        }
        # A handler is itself guarded, to restore the exception that was handled before: what this
        # guards, and what the handlers within it guard, is the block.
        guards = {handler_of.get(handler) for handler in handlers}
        for offset in instructions:
            handler = handler_of.get(offset)
            while handler is not None and handler not in guards:
                if handler in handlers:  # this is in its `try`
                    handler = handler_of[handler]
                handler = handler_of.get(handler)
            if handler is not None:
                yield offset

else:

    def _offsets(code: CodeType, instructions: _Instructions) -> Iterator[int]:
        """Returns the offsets of the instructions in handlers of `finally` blocks."""
        pending = [
            each.argval
            for each in instructions.values()
            if each.opname == "SETUP_FINALLY" and _is_finally(instructions, each.argval)
        ]
        seen: set[int] = set()
        while pending:
            offset = pending.pop()
            if offset in seen:
                continue
            seen.add(offset)
            yield offset
            opname, opcode, argval = (
                instructions[offset].opname,
                instructions[offset].opcode,
                instructions[offset].argval,
            )
            if opcode in dis.hasjrel or opcode in dis.hasjabs:
                pending.append(argval)
            if opname not in _ENDS and opname not in ("JUMP_FORWARD", "JUMP_ABSOLUTE"):
                pending.append(offset + 2)
