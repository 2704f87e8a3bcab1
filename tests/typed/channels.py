"""What type checkers make of channels and runs. `make typecheck` reads it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from typing_extensions import assert_type

from sserpent import ServerSentEvent
from sserpent.channels import Channels, Key, Run, Runs, Selection, Subscription

channels = Channels()
rooms = channels.channel("rooms", str, keyed=True)
runs = channels.runs("answers", int, ttl=60, max_bytes=1_000, shutdown_grace=5)


async def answer() -> AsyncIterator[int]:
    yield 1


def is_shown(event: ServerSentEvent) -> bool:
    return event.event == "news"


async def is_shown_async(event: ServerSentEvent) -> bool:
    return False


def subscribe(key: Key) -> Selection:
    assert_type(rooms.subscribe(key=key, filter=is_shown, ping_interval=5), Subscription[str])
    rooms.subscribe(key=UUID(int=1), headers={"X-A": "b"}, status_code=202, max_pending=1)
    rooms.subscribe(key=1, filter=is_shown_async)  # type: ignore[arg-type]
    rooms.subscribe(key=1, open_delay=1)  # type: ignore[call-arg]
    rooms.subscribe(key=1, ping_interval="5")  # type: ignore[arg-type]
    rooms.subscribe(key=1.5)  # type: ignore[arg-type]
    rooms.listen(key=1, filter=is_shown_async)  # type: ignore[arg-type]
    channels.subscribe(rooms.on(1), owner=1, filter=is_shown_async)  # type: ignore[arg-type]
    channels.subscribe(rooms.on(1), ping=5)  # type: ignore[call-arg]
    return rooms.on(key)


async def run() -> None:
    assert_type(runs, Runs[int])
    started = await runs.start(answer(), owner=1, id="a")
    assert_type(started, Run[int])
    assert_type(started.follow(after=None, send_timeout=5), Subscription[int])
    _either: Subscription[int | str] = started.follow()
    started.follow(ping=5)  # type: ignore[call-arg]
    await runs.follow("a", owner="1", open_delay=1)  # type: ignore[call-arg]
    assert_type(await channels.disconnect(owner=1), int)
