"""The core in pure Python, and the specification of the compiled one.

`compiled` (sources in `rust/`) has the same names, signatures, bytes, errors and messages, file by
file. A change lands in both, with one test that runs over both.
"""

from .base_sender import BaseSender as BaseSender
from .buffer import Buffer as Buffer
from .declared import DeclaredEvents as DeclaredEvents
from .event import ServerSentEvent as ServerSentEvent
from .event import format_sse_event as format_sse_event
from .json import ItemSchema as ItemSchema
from .meter import Meter as Meter
from .parse import EventStreamParser as EventStreamParser
from .parse import EventTooLarge as EventTooLarge
from .parse import MessageEvent as MessageEvent
from .pump import Pump as Pump
from .rules import ItemRules as ItemRules
from .stepping import step as step
from .stepping import step_as as step_as
