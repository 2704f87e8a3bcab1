"""Blocking calls in an event loop as errors, by BlockBuster, each of them kept: what is raised may
be caught before a test sees it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

#: BlockBuster changes methods of built-in classes, which is possible on CPython alone.
CAN_RUN = importlib.util.find_spec("blockbuster") is not None and (
    sys.implementation.name == "cpython"
)
REASON = "BlockBuster is not installed, or this is not CPython"


@contextmanager
def forbidden() -> Iterator[list[str]]:
    """Forbids blocking calls in event loops of this process, and yields a list that gets the
    traceback of each. They are printed, too."""
    import blockbuster.blockbuster as module

    calls: list[str] = []

    class Noted(module.BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            calls.append(f"Blocking call to {func}\n" + "".join(traceback.format_stack()))
            print(calls[-1], file=sys.stderr)

    original, module.BlockingError = module.BlockingError, Noted
    detector = module.BlockBuster()
    # FastAPI looks for the file of an endpoint when it is first called.
    detector.functions["os.stat"].can_block_in("fastapi/routing.py", "_extract_endpoint_context")
    detector.activate()
    try:
        yield calls
    finally:
        detector.deactivate()
        module.BlockingError = original
