"""The core in pure Python, and the specification of the compiled one.

`compiled` (sources in `rust/`) has the same names, signatures, bytes, errors and messages, file by
file. A change lands in both, with one test that runs over both.
"""

from .buffer import Buffer
from .declared import DeclaredEvents
from .event import ServerSentEvent, format_sse_event
from .json import ItemSchema
from .meter import Meter
from .outlet import Outlet
from .parse import EventStreamParser, EventTooLarge, MessageEvent
from .pump import Pump
from .rules import ItemRules
from .stepping import step, step_as

__all__ = [
    "Buffer",
    "DeclaredEvents",
    "EventStreamParser",
    "EventTooLarge",
    "ItemRules",
    "ItemSchema",
    "MessageEvent",
    "Meter",
    "Outlet",
    "Pump",
    "ServerSentEvent",
    "format_sse_event",
    "step",
    "step_as",
]
