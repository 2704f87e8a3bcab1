"""Hears of SIGINT and SIGTERM while streams are open, and passes them on.

A handler of ours goes on top only of a handler that an event loop or a server has set. An
application with a handler of its own stays in charge: nothing is put on top of that. (Where the
server cannot be asked, on granian, such an application has to end its streams itself.)

If an application sets a handler of its own, `signal.signal` returns ours to it. The application may
keep ours, call it, and put it back at any time. So each of ours remembers the handler that was
there before it, and always passes the signal on to that one. Then no two handlers can call each
other in a circle.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal as _signal
else:
    # `signal` looks each handler up in an enum, which fails with a message that holds the whole
    # handler's repr: that alone took a sixth of the time to a stream's first event.
    try:
        import _signal
    except ImportError:
        import signal as _signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# The servers whose signal handlers mean "the server ends when this signal comes".
_SERVERS = frozenset(
    {"asyncio", "uvloop", "winloop", "trio", "twisted"}
    | {"uvicorn", "gunicorn", "hypercorn", "granian", "daphne"}
    | {"signal", "_signal"}
)

Handler = Callable[[int, "FrameType | None"], Any]


class _OnTop:
    """A handler that calls `notice`, then the handler on which it was put."""

    __slots__ = ("below", "notice")

    def __init__(self, below: Handler, notice: Callable[[], object]) -> None:
        self.below = below
        self.notice = notice

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.notice()
        self.below(number, frame)

    def __repr__(self) -> str:
        return f"<sserpent's signal handler on top of {self.below!r}>"


def listen(notice: Callable[[], object]) -> None:
    """Has `notice` called, in a signal handler, when a signal means that the server ends.

    Only the main thread can set handlers: in another this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        handler = _signal.getsignal(number)
        if callable(handler) and not isinstance(handler, _OnTop) and _is_a_servers(handler):
            _signal.signal(number, _OnTop(handler, notice))


def stop_listening() -> None:
    """Puts back what was there, unless another handler is on top by now."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        handler = _signal.getsignal(number)
        if isinstance(handler, _OnTop):
            _signal.signal(number, handler.below)


def _is_a_servers(handler: Handler) -> bool:
    owner = getattr(handler, "__self__", None)
    if owner is not None and not hasattr(handler, "__wrapped__"):
        module = str(type(owner).__module__)
    else:
        module = str(getattr(handler, "__module__", ""))
    return module.partition(".")[0] in _SERVERS
