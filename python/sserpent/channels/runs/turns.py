"""The turns of the event loop that a run's generator takes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from types import coroutine
from typing import Any, TypeVar

from ..fanout.hub import Hub

T = TypeVar("T")

# Seconds for which a generator that does not wait has the event loop, as in a stream.
_TURN = 0.002


class Turns:
    """Knows where a generator suspends: there its followers are sent what it has yielded, in the
    same turn, as those of a stream are.

    Args:
        hub: Returns the hub of the event loop, if it has one.
    """

    def __init__(self, hub: Callable[[], Hub | None]) -> None:
        self._hub = hub
        self._over_at = 0.0

    def end_soon(self) -> None:
        """Ends the turn after this item: enough waits to be sent."""
        self._over_at = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is time to let the event loop turn: a generator may never wait itself."""
        return monotonic() >= self._over_at

    @coroutine
    def run(self, steps: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Runs what steps the generator. To be awaited."""
        step: Callable[[Any], Any] = steps.send
        given: Any = None
        try:
            while True:
                self._over_at = monotonic() + _TURN
                hub = self._hub()
                if hub is not None:
                    hub.hold()
                try:
                    waits_for = step(given)
                except StopIteration as returned:
                    result: T = returned.value
                    return result
                finally:
                    if hub is not None:
                        hub.let_go()
                step = steps.send
                try:
                    given = yield waits_for
                except BaseException as thrown:
                    step, given = steps.throw, thrown
        finally:
            del given, step  # an error's traceback may refer to this frame
