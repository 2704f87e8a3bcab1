"""A subscriber that waits for the end of a run."""

from __future__ import annotations

from ..._core import ServerSentEvent
from ..fanout.subscriber import Subscriber
from ..fanout.taken import Taken, event_of


class EndSubscriber(Subscriber):
    """Waits for the end of a run. It makes an event of the last entry alone: an event that is made
    stays with its entry as long as the run, and nobody reads the others."""

    __slots__ = ()

    def take_events(self) -> list[ServerSentEvent]:
        taken = self._take()
        self._goodbye = b""
        ends = [
            event_of(each) for each in taken if isinstance(each, Taken) and each.entry.is_run_end
        ]
        return [event for event in ends if event is not None]
