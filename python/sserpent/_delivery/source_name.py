"""Where a stream comes from, in words, and whom to blame for an item that cannot be encoded."""

from __future__ import annotations

import sys
from typing import Any, cast

from starlette.types import Scope

from .._runtime.log import logger


class SourceName:
    """The source of a stream.

    Args:
        source: The endpoint function, or the generator or other iterable it made.
    """

    __slots__ = ("source",)

    def __init__(self, source: object) -> None:
        self.source: Any = source

    def __str__(self) -> str:
        source: object = self.source
        code = None
        for attribute in ("__code__", "ag_code", "gi_code"):
            code = code or getattr(source, attribute, None)
        named = cast("Any", source if hasattr(source, "__qualname__") else type(source))
        module = getattr(named, "__module__", None)
        name = f"{module}.{named.__qualname__}" if module else named.__qualname__
        return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name

    def explain(self, error: Exception, item: object, scope: Scope) -> Exception:
        """Returns the exception to raise for an item that could not be encoded: `error` with a
        note."""
        kind = type(item)
        note = (
            f"sserpent: while encoding an item of type {kind.__module__}.{kind.__qualname__}"
            f" from {self}"
        )
        if sys.version_info >= (3, 11):
            error.add_note(note)
        else:
            logger.error(note)
        return error
