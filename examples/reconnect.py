"""Reads a stream, and reconnects as a browser's `EventSource` does."""

import asyncio
import sys

import httpx2

from sserpent.client import EventSource


async def main(url: str) -> None:
    async with httpx2.AsyncClient() as client, EventSource(client, url) as source:
        async for event in source:
            print(event.last_event_id, event.type, event.data)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
