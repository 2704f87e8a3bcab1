"""What a meter counts. Both backends."""

from __future__ import annotations

import gc
import threading
import weakref
from types import ModuleType
from typing import Any

import pytest


class Frames:
    """A source of ready frames."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)

    @property
    def pending(self) -> bool:
        return bool(self.frames)

    def take(self) -> bytes:
        return self.frames.pop(0) if self.frames else b""


def nothing() -> None:
    pass


def test_events_of_a_buffer_are_counted_as_they_are_taken(core: ModuleType) -> None:
    buffer = core.Buffer()
    meter = core.Meter(buffer, nothing)
    assert meter.counted == (0, 0, 0)
    for item in (1, core.ServerSentEvent(raw_data="a\n\nb", id="1"), {"c": "\n\n"}):
        buffer.push(item)
    assert meter.counted == (0, 0, 0)
    assert meter.pending == buffer.pending > 0
    taken = meter.take()
    assert meter.counted == (1, 3, len(taken))
    assert meter.take() == b""
    assert meter.counted == (1, 3, len(taken))
    buffer.push(2)
    taken += meter.take()
    assert meter.counted == (2, 4, len(taken))


def test_an_event_that_fails_is_not_counted(core: ModuleType) -> None:
    buffer = core.Buffer()
    meter = core.Meter(buffer, nothing)
    buffer.push(1)
    with pytest.raises(ValueError, match="lock"):
        buffer.push(threading.Lock())
    assert meter.take() == b"data: 1\n\n"
    assert meter.counted == (1, 1, 9)


@pytest.mark.parametrize(
    ("frame", "events"),
    [
        (b"data: 1\n\n", 1),
        (b"data: 1\ndata: 2\n\nid: 1\ndata\n\n", 2),
        (b": ping\n", 0),
        (b"retry: 1\n", 0),
        (b"\n\n\n", 1),
        (b"\n\n\n\n", 2),
        (b"data: \n\n", 1),
    ],
)
def test_events_of_frames_are_counted_by_their_blank_lines(
    core: ModuleType, frame: bytes, events: int
) -> None:
    frames = Frames(frame, frame)
    meter = core.Meter(frames, nothing)
    assert meter.pending is True
    assert meter.take() == frame
    assert meter.counted == (1, events, len(frame))
    assert meter.take() == frame
    assert meter.counted == (2, 2 * events, 2 * len(frame))
    assert meter.take() == b""
    assert meter.pending is False
    assert meter.counted == (2, 2 * events, 2 * len(frame))


def test_the_first_event_is_told_once(core: ModuleType) -> None:
    told: list[tuple[int, int, int]] = []
    meter: Any = core.Meter(
        Frames(b": ping\n", b"data: 1\n\n", b"data: 2\n\n"), lambda: told.append(meter.counted)
    )
    meter.take()
    assert told == []
    meter.take()
    meter.take()
    assert told == [(2, 1, 16)]


def test_what_fails_in_what_it_counts_is_raised(core: ModuleType) -> None:
    class Failing(Frames):
        def take(self) -> bytes:
            raise LookupError("on purpose")

    meter = core.Meter(Failing(), nothing)
    with pytest.raises(LookupError, match="on purpose"):
        meter.take()
    assert meter.counted == (0, 0, 0)


def test_a_meter_in_a_circle_is_freed(core: ModuleType) -> None:
    frames: Any = Frames()
    frames.meter = core.Meter(frames, nothing)
    freed = weakref.ref(frames)
    del frames
    gc.collect()
    assert freed() is None
