"""Hypothesis strategies for the fields of an event."""

from __future__ import annotations

import os
from decimal import Decimal
from enum import Enum
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

settings.register_profile(
    "sserpent",
    # `make test` looks shorter, `make fuzz` longer.
    max_examples=int(os.environ.get("SSERPENT_EXAMPLES", "100")),
    # A slow or busy machine is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sserpent")


class Text(str):
    """A string that is not exactly a str."""

    __slots__ = ()


class ShoutingText(str):
    """A string that shows itself as another one."""

    __slots__ = ()

    def __str__(self) -> str:
        return "a\nb"


class Kind(str, Enum):
    """What many applications name their events with."""

    PLAIN = "plain"
    BROKEN = "two\nlines"


class Number(int):
    """An integer that is not exactly an int."""


class Milliseconds(int, Enum):
    SECOND = 1000
    BEFORE = -1


def none_or(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


# Line ends, near line ends and what a field starts with come up often.
_MARKS = ["\n", "\r", "\r\n", "\0", ":", " ", "\u2028", "\x85", "\v", "\f", "\ufeff", "data: "]
_pieces = st.sampled_from(_MARKS) | st.text(max_size=6)
texts = st.lists(_pieces, max_size=8).map("".join)
single_lines = texts.map(lambda text: text.replace("\n", "").replace("\r", ""))
ids = single_lines.map(lambda text: text.replace("\0", ""))
retries = st.integers(0, 2**80)

# What every way to frame an event accepts.
valid_fields = st.fixed_dictionaries(
    {},
    optional={
        "raw_data": none_or(texts),
        "event": none_or(single_lines),
        "id": none_or(ids),
        "retry": none_or(retries),
        "comment": none_or(texts),
    },
)

_any_text = (
    texts
    | st.text(st.characters(), max_size=10)
    | st.text(st.characters(categories=["Cs", "Lu"]), min_size=1, max_size=4)
    | texts.map(Text)
    | st.builds(ShoutingText, texts)
    | st.sampled_from(Kind)
)
_anything_else = (
    st.binary(max_size=6)
    | st.binary(max_size=6).map(bytearray)
    | st.booleans()
    | st.floats()
    | st.sampled_from([1e300, 2.0**53, 2.0**63, 2.0**64, -0.0, 10.0**25])
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**4299, 10**4300, -(10**4300)])
    | st.decimals(places=2)
    | st.sampled_from([Decimal("7"), Decimal("7.0"), Decimal("1E+3"), Decimal("NaN")])
    | st.sampled_from(["1", " 5 ", "-3", "1_000", "1.0", "٣", "0x10", "", "9" * 20, "9" * 4301])
    | st.integers(-5, 5000).map(Number)
    | st.sampled_from(Milliseconds)
    | st.sampled_from([[], ["a"], {}, {"a": 1}, (), object, ..., 3j])
)

# Anything at all, for each field.
any_value = none_or(_any_text | _anything_else)
_NAMES = ("raw_data", "event", "id", "retry", "comment")
any_fields = st.builds(
    lambda valid, anything: {**valid, **anything},
    valid_fields,
    st.dictionaries(st.sampled_from(_NAMES), any_value, max_size=3),
)
