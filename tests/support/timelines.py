"""What a stream sends at which time, by a clock that jumps: one table for each rule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from asgi import Connection
from sserpent import EventSourceResponse

PING = ": ping\n"


async def timeline(
    content: Callable[[], AsyncIterator[Any]],
    until: float,
    act: Callable[[Connection, Any], Any] | None = None,
    **options: Any,
) -> list[tuple[float, str]]:
    """When each message was sent, in whole milliseconds of virtual time."""
    sent: list[tuple[float, str]] = []
    connection = Connection()
    send = connection.send
    begin = anyio.current_time()

    async def noting_send(message: Any) -> None:
        await send(message)
        text = message.get("body", b"headers").decode()
        now = round(anyio.current_time() - begin, 3)
        if text:
            sent.append((now, text))
        if not message.get("more_body", True):
            sent.append((now, "END"))

    connection.send = noting_send  # type: ignore[method-assign]
    response = EventSourceResponse(content(), **options)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, response)
        if act is not None:
            tasks.start_soon(act, connection, response)
        await anyio.sleep(until)
        connection.disconnect()
    return sent
