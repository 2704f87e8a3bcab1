"""What type checkers make of options. `make typecheck` reads it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterable

from sserpent import EventSourceResponse


async def events() -> AsyncIterable[int]:
    yield 1


class Patient(EventSourceResponse):
    ping_interval = 30
    open_delay = None

    def on_disconnect(self) -> None: ...


class Impatient(EventSourceResponse):
    ping_interval = "5"  # type: ignore[assignment]


EventSourceResponse(events())
EventSourceResponse(events(), 202, {"X-A": "b"}, ping_interval=None, open_delay=0)
EventSourceResponse(events(), send_timeout=1.5, max_pending=1, on_disconnect=lambda: None)
Patient(events(), max_duration=3_600, cleanup_timeout=1, shutdown_grace=5)
EventSourceResponse(events(), compress=True)
EventSourceResponse(events(), compress="gzip")  # type: ignore[arg-type]
EventSourceResponse(events(), ping=5)  # type: ignore[call-arg]
EventSourceResponse(events(), ping_intervall=5)  # type: ignore[call-arg]
EventSourceResponse(events(), max_streams=5)  # type: ignore[call-arg]
EventSourceResponse(events(), ping_interval="5")  # type: ignore[arg-type]
EventSourceResponse(events(), max_pending=None)  # type: ignore[arg-type]
EventSourceResponse(events(), cleanup_timeout=None)  # type: ignore[arg-type]
EventSourceResponse(events(), on_disconnect=5)  # type: ignore[arg-type]

response = EventSourceResponse(events())
response.ping_interval = 5
response.ping_interval = "5"  # type: ignore[assignment]
