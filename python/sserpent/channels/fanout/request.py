"""The request of a subscriber: which histories, and from where on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from uuid import UUID

from ..._core import ServerSentEvent
from ..history.position import HistoryKey
from ..history.ring import Retention

Overflow = Literal["gap", "latest", "disconnect"]
Start = Literal["live", "earliest"] | int
Filter = Callable[[ServerSentEvent], bool]


class Snapshot(NamedTuple):
    """A function that returns the state of a channel, for clients that do not have it.

    Attributes:
        function: Returns the state, or an awaitable of it.
        arguments: What the function is called with: the key, if the channel has keys.
    """

    function: Callable[..., Any]
    arguments: tuple[str | int | UUID, ...]


class Selection(NamedTuple):
    """A channel, or a key of a channel, for `Channels.subscribe`. `Channel.on` returns it."""

    key: HistoryKey
    limits: Retention
    overflow: Overflow
    max_subscribers: int | None
    decode: Callable[[str, str], Any]
    #: Whether the event `run-end` is the last.
    ends: bool = False
    #: Makes the event that a client gets in place of `gap` and `reset`.
    snapshot: Snapshot | None = None


class Request(NamedTuple):
    """The request of a subscriber; `Channel.subscribe` documents it.

    Attributes:
        several: Whether the id of the stream is one for several channels.
    """

    selections: tuple[Selection, ...]
    several: bool
    after: str | None
    start: Start
    filter: Filter | None
