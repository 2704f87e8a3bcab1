"""What a client subscribes to, and from where on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..._core import ServerSentEvent
from ..history.position import HistoryKey
from ..history.ring import Retention

Overflow = Literal["gap", "latest", "disconnect"]
Start = Literal["live", "earliest"] | int
Filter = Callable[[ServerSentEvent], bool]


class Selection(NamedTuple):
    """One stream of a channel that can be subscribed to: what `Channel.on` returns."""

    key: HistoryKey
    limits: Retention
    overflow: Overflow
    max_subscribers: int | None
    decode: Callable[[str, str], Any]
    #: Whether the event `run-end` is the last.
    ends: bool = False


class Request(NamedTuple):
    """What a subscriber asks for; `Channel.subscribe` documents it.

    Attributes:
        several: Whether the id of the stream is one for several channels.
    """

    selections: tuple[Selection, ...]
    several: bool
    after: str | None
    start: Start
    filter: Filter | None
