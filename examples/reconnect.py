"""A reader that reconnects, as a browser's `EventSource` does."""

import random
from collections.abc import AsyncIterator

import anyio
import httpx2

from sserpent.client import MessageEvent, aiter_events


async def follow(client: httpx2.AsyncClient, url: str) -> AsyncIterator[MessageEvent]:
    """Yields the events of a stream over all its connections, until the server says 204."""
    last_event_id, delay, failures = "", 1.0, 0
    while True:
        headers = {"Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        try:
            async with client.stream("GET", url, headers=headers) as response:
                if response.status_code == 204:
                    return
                kind = response.headers.get("Content-Type", "")
                if response.status_code != 200 or not kind.startswith("text/event-stream"):
                    raise ValueError(f"{url} is no event stream: {response.status_code}, {kind}")
                source = response.aiter_bytes()
                async with aiter_events(source, last_event_id=last_event_id) as events:
                    try:
                        async for event in events:
                            failures = 0  # reset by an event, not by a connection
                            yield event
                    finally:
                        last_event_id = events.last_event_id
                        if events.reconnection_time is not None:
                            delay = events.reconnection_time / 1000
        except httpx2.TransportError:
            pass  # the connection was not made, or broke
        # With full jitter, so that clients cut off together do not come back together.
        await anyio.sleep(random.uniform(0, min(delay * 2**failures, 60)))
        failures += 1
