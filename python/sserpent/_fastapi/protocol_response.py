"""`ProtocolResponse`: a stream in the protocol of somebody else's client."""

from __future__ import annotations

from typing import Any, ClassVar

from .response import EventSourceResponse


class ProtocolResponse(EventSourceResponse):
    """Streams in the protocol of a client that exists already; `sserpent.protocols` has the classes
    for those of the model providers, and a subclass with a `closing_event` is a protocol of one's
    own.

    Items are JSON objects (dicts, models) or events. What ends the stream before its generator has
    come to its end cuts the connection, so that no client takes a part for the whole.
    """

    #: The field of an item that names its event; None for events without a name.
    name_from: ClassVar[str | None] = None
    #: Whether the fields of models that are None are left out.
    exclude_none: ClassVar[bool] = True
    #: Whether the events of a run have ids.
    event_ids: ClassVar[bool] = False
    #: Whether `StreamEnd.first` is known, for which the first event is kept.
    keeps_first: ClassVar[bool] = False

    @classmethod
    def as_event(cls, item: Any, number: int) -> Any:
        """Returns what is sent for an item: the item itself, unless a subclass has its own.

        Args:
            item: What the generator has yielded.
            number: Its number, from 0.
        """
        return item
