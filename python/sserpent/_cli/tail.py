"""`sserpent tail`: prints the events of a stream as they come."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import Any

import httpx2

from ..client import IncompleteStream, MessageEvent, NotAnEventStream, SyncEventSource
from .terminal import coloured, visible, without_password

# The last event of a run: its stream has ended for good when it ends then.
_RUN_END = "run-end"


def tail(given: Any) -> int:
    """Prints the events of a stream, and returns the exit status.

    Args:
        given: The arguments of the command line.
    """
    method = "GET" if given.post is None else "POST"
    options: dict[str, Any] = {"json": given.post, "last_event_id": given.last_event_id}
    show = _show_json if given.json else _show
    is_run_over = False
    try:
        # Any: what type checkers know of the client is not much.
        client: Any = httpx2.Client(headers=given.headers, follow_redirects=True)
        with client, _Told(client, given.url, method=method, **options) as source:
            source._source.logs = False  # `_Told` says it
            # Sent again, a POST that came to its end would do its work again.
            source._source.ends_whole = method == "POST"
            for event in source:
                show(event)
                is_run_over = event.type == _RUN_END
                source._source.ends_whole = is_run_over or method == "POST"
    except NotAnEventStream as error:
        _say(str(error))
        return 1
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        _say(f"{without_password(given.url)}: {type(error).__name__}: {error}")
        return 1
    if is_run_over:
        _say("the run has ended")
    elif method == "GET":
        _say("the server says that nothing more comes")
    else:
        _say("the stream has ended")
    return 0


class _Told(SyncEventSource[MessageEvent]):
    """Says on standard error what becomes of its connections."""

    def _connect(self) -> None:
        super()._connect()
        if self.connected:
            after = f" after the event {self.last_event_id!r}" if self.last_event_id else ""
            _say(f"connected{after}")

    def _wait(self, seconds: float) -> None:
        _say(f"reconnects in {seconds:.1f} s: {_why(self._source.failure)}")
        time.sleep(seconds)


def _why(failure: BaseException | None) -> str:
    if isinstance(failure, IncompleteStream):
        return str(failure)  # none was promised: the server has ended it, or a proxy
    return f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__


def _say(text: str) -> None:
    print(coloured(visible(text), "dim", sys.stderr), file=sys.stderr, flush=True)


def _show(event: MessageEvent) -> None:
    now = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    name = coloured(visible(event.type), "cyan", sys.stdout)
    event_id = visible(event.last_event_id) or "-"
    line = f"{coloured(now, 'dim', sys.stdout)}  {event_id}  {name}  {visible(event.data)}"
    print(line, flush=True)


def _show_json(event: MessageEvent) -> None:
    shown = {
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "id": event.last_event_id,
        "event": event.type,
        "data": event.data,
    }
    print(json.dumps(shown), flush=True)
