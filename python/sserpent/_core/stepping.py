"""Stepping a coroutine by hand."""

from __future__ import annotations

from collections.abc import Coroutine
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
