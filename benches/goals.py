"""The speed that is aimed at, and how far a run's results are from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .measure import Tables, ratio_of

Cell = tuple[str, str, str]  # table, case, contender

BURST = "uvicorn, burst"
TURN = "uvicorn, one event per loop turn"
MEMORY = "uvicorn, memory per idle connection"
FIRST_EVENT = "uvicorn, connection to first event"
IDLE = "2,000 connections"


@dataclass(frozen=True)
class Goal:
    """A ratio that is to be at least, or at most, a limit."""

    work: str
    versus: str
    at_least: bool
    limit: float
    value: Callable[[Tables], float]

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


def _cells(above: Cell, below: Cell) -> Callable[[Tables], float]:
    def value(tables: Tables) -> float:
        (table, case, name), (other_table, other_case, other_name) = above, below
        return ratio_of(
            tables[table].cases[case][name], tables[other_table].cases[other_case][other_name]
        )

    return value


def _times_as_fast(table: str, case: str, limit: float, work: str, peer: str = "fastapi") -> Goal:
    value = _cells((table, case, peer), (table, case, "sserpent"))
    return Goal(work, f"times as fast as {NAMES[peer]}", True, limit, value)


def _share_of(table: str, case: str, limit: float, work: str, peer: str) -> Goal:
    value = _cells((table, case, "sserpent"), (table, case, peer))
    return Goal(work, f"of {NAMES[peer]}", False, limit, value)


def _flat(table: str, work: str) -> Goal:
    """The largest deviation, up or down, from the first case."""

    def value(tables: Tables) -> float:
        first, *others = (case["sserpent"] for case in tables[table].cases.values() if case)
        ratios = [ratio_of(other, first) for other in others]
        return max(max(each, 1 / each) for each in ratios)

    return Goal(work, "largest change, as a factor", False, 1.15, value)


NAMES = {
    "fastapi": "`fastapi.sse`",
    "sserpent": "`sserpent`",
    "sserpent-pure": "`sserpent`, pure Python",
    "sse-starlette": "`sse-starlette`",
    "hand": "`StreamingResponse`, hand-framed",
    "joined": "hand-framed, 100 events a chunk",
    "asgi": "bare ASGI",
    "to_json": "`to_json` alone",
    "axum": "axum (no Python)",
}

_TOKEN = "token with event"
_MODEL = "model with event, id, retry"

GOALS = [
    _times_as_fast(BURST, "models", 55, "burst of annotated models"),
    _times_as_fast(BURST, "events", 45, "burst of `ServerSentEvent(data=model, event, id)`"),
    _times_as_fast(BURST, "tokens", 100, "burst of `raw_data` tokens"),
    _times_as_fast(BURST, "sync", 100, "sync generator of models"),
    _times_as_fast(BURST, "dicts", 60, "burst of dicts, no annotation"),
    _times_as_fast(TURN, "models", 4.2, "one event per loop turn"),
    _share_of(TURN, "models", 1.05, "one event per loop turn", "hand"),
    _share_of(MEMORY, IDLE, 0.5, "memory per idle connection", "fastapi"),
    _share_of(MEMORY, IDLE, 1.0, "memory per idle connection", "hand"),
    _share_of(FIRST_EVENT, "median", 0.5, "connection to first event", "fastapi"),
    _times_as_fast("encode", _TOKEN, 12, "construct + encode, token with event"),
    _times_as_fast("encode", _TOKEN, 4, "construct + encode, token with event", "sserpent-pure"),
    _times_as_fast("encode", _MODEL, 5, "construct + encode, model with event, id, retry"),
    Goal(
        "construct + encode, model with event, id, retry",
        "of `to_json` alone",
        False,
        1.4,
        _cells(("encode", _MODEL, "sserpent"), ("to_json", "model", "to_json")),
    ),
    _times_as_fast("encode", "100 KB in one line", 20, "100 KB of text, one line"),
    _times_as_fast("encode", "100 KB of log lines", 20, "100 KB of text, 1,350 lines"),
    _flat("uvicorn, length of the stream", "cost per event, 1,000 to 1,000,000 events in a stream"),
    _flat(
        "uvicorn, concurrent streams, burst, processor time",
        "cost per event, 1 to 1,000 concurrent streams",
    ),
]
