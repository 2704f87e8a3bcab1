"""How a run has ended: its last event, `run-end`, and what is read from that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from starlette.exceptions import HTTPException

from ..._core import EventStreamParser, ServerSentEvent
from ..._fastapi.stream_end import phrase_of
from ..history.broker import Item, RunRecord
from ..history.control_events import RUN_END

#: How a run has ended, as its last event says.
End = Literal["done", "error", "stopped", "lost"]
#: The reason of a run that somebody has stopped.
REQUEST = "request"
#: How many characters a reason has at most: each run keeps its own, and each follower reads it.
MAX_REASON = 1_000


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, which `Runs.status` and `Runs.wait` return.

    Attributes:
        id: The id of the run.
        state: "running", or how it has ended: "done", "error", "stopped" or "lost".
        reason: The `reason` of `run-end`. None while the run is active, or without a reason.
        status: The status of the `HTTPException` that has ended the run, or None.
        events: How many events the run has so far, without `run-end`.
    """

    id: str
    state: Literal["running", "done", "error", "stopped", "lost"]
    reason: str | None = None
    status: int | None = None
    events: int = 0


def end_item(
    run_id: str,
    end: End,
    reason: str | None,
    status: int | None = None,
    has_end_mark: bool = False,
) -> Item:
    """Returns the last event of a run.

    Args:
        run_id: The id of the run.
        end: How it has ended.
        reason: Why, of which `MAX_REASON` characters are kept.
        status: The status of the `HTTPException` that has ended it.
        has_end_mark: Whether the last that its generator has yielded is the mark at the end of its
            protocol's streams, which is not stored.
    """
    if reason is not None and len(reason) > MAX_REASON:
        reason = f"{reason[: MAX_REASON - 1]}…"
    data: dict[str, Any] = {"run": run_id, "end": end, "reason": reason}
    if status is not None:
        data["status"] = status
    if has_end_mark:
        data["has_end_mark"] = True
    return Item(ServerSentEvent(data=data, event=RUN_END).encode())


def status_of(run_id: str, record: RunRecord) -> RunStatus:
    """Returns what a record says of a run."""
    if record.end_body is None:
        state: Any = "running" if record.is_alive else "lost"
        return RunStatus(run_id, state, events=record.events)
    said = read_end(record.end_body)
    return RunStatus(run_id, said["end"], said.get("reason"), said.get("status"), record.events)


def public_reason(error: HTTPException) -> str:
    """Returns what a client may read of the exception: its detail, or its status in words."""
    detail: Any = error.detail  # FastAPI's may be anything that has a JSON
    is_text = isinstance(detail, str) and detail
    return detail if is_text else phrase_of(error.status_code)


def read_end(body: bytes) -> dict[str, Any]:
    """Returns the data of the last event of a run."""
    [event] = EventStreamParser(len(body)).feed(body)
    data: dict[str, Any] = json.loads(event.data)
    return data
