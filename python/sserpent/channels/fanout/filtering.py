"""Asks the application's filter whether a client is shown an entry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from inspect import isawaitable
from typing import Any

from ..history.ring import Entry
from .request import Filter, Selection


def shows(filter: Filter, selection: Selection, entry: Entry) -> bool:
    """Returns whether a filter shows an entry. One that the channel's type refuses is hidden: the
    filter cannot be asked.

    Raises:
        TypeError: the filter returns no bool.
        Exception: what the filter raises, but not as an end of an iteration.
    """
    if not entry.is_readable(selection.decode):
        return False
    try:
        returned: Any = filter(entry.event(selection.decode))
    except (StopIteration, StopAsyncIteration) as error:
        raise RuntimeError(f"'filter' raised {type(error).__name__}") from error
    if not isinstance(returned, bool):
        why = ""
        if _is_always_true(returned):
            _close(returned)
            why = ", which is always true"
        raise TypeError(
            f"'filter' of channel {selection.key.channel!r} must return a bool, not"
            f" {type(returned).__name__}{why}"
        )
    return returned


def _is_always_true(value: object) -> bool:
    return isawaitable(value) or isinstance(value, (Generator, AsyncGenerator))


def _close(returned: Any) -> None:
    """Lets go of what is not awaited, without a warning that it never was."""
    close = getattr(returned, "close", None) or getattr(returned, "cancel", None)
    if close is not None:
        close()
