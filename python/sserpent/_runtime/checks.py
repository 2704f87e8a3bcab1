"""Checks of arguments.

One policy holds for all: the wrong type is a TypeError, a bad value a ValueError, raised where the
argument is given. The message names the argument, the rule, and what was given.
"""

from __future__ import annotations

import math
import sys
from typing import Any

# An integer that is larger cannot be added to a time.
_LONGEST = sys.float_info.max


def wrong_type(name: str, rule: str, value: object) -> TypeError:
    """Returns the error for an argument of the wrong type: it must be as `rule` says."""
    return TypeError(f"'{name}' must be {rule}, not {type(value).__name__}")


# The greatest number that Redis takes.
_MOST = 2**63 - 1


def checked_count(name: str, value: Any, least: int) -> int:
    """Returns an integer that is at least `least`, and fits into 64 bits.

    Raises:
        TypeError: it is no integer.
        ValueError: it is less, or more.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if value < least:
        raise ValueError(f"'{name}' must be at least {least}, not {value}")
    if value > _MOST:
        raise ValueError(f"'{name}' must be at most {_MOST}")
    return value


def checked_limit(name: str, value: Any) -> int | None:
    """Returns an integer that is at least 1, or None for no limit.

    Raises:
        TypeError: it is neither an integer nor None.
        ValueError: it is less than 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer or None", value)
    return checked_count(name, value, 1)


def checked_bool(name: str, value: Any) -> bool:
    """Returns a bool.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool):
        raise wrong_type(name, "True or False", value)
    return value


def checked_seconds(name: str, value: Any, *, or_zero: bool = False) -> float:
    """Returns a time in seconds.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, not finite, or 0 where that is not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, "a number of seconds", value)
    if not 0 <= value <= _LONGEST or (value == 0 and not or_zero):
        rule = "not negative" if or_zero else "more than 0"
        # Python refuses to write an integer of more than 4,300 digits.
        shown = value if isinstance(value, float) or abs(value) <= _LONGEST else math.inf
        raise ValueError(f"'{name}' must be finite and {rule}, not {shown!r}")
    return float(value)


def checked_optional_seconds(name: str, value: Any, *, or_zero: bool = False) -> float | None:
    """Returns a time in seconds, or None.

    Raises:
        TypeError: it is neither a number nor None.
        ValueError: it is negative, not finite, or 0 where that is not allowed.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, "a number of seconds or None", value)
    return checked_seconds(name, value, or_zero=or_zero)
