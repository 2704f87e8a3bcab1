"""Tests of event streams in process: a client that really streams, and an upstream by script.

    from sserpent.testing import connect

    async with connect(app) as client, client.events("/events") as events:
        event = await events.next(timeout=1)
        await events.leave()

Needs httpx2 or httpx. Works on asyncio and Trio, and with any ASGI application.
"""

from .connected import Client, connect
from .events import Events, StreamEnded
from .synchronous import SyncClient, SyncEvents, connect_sync
from .upstream import FakeUpstream, UpstreamRequest

__all__ = [
    "Client",
    "Events",
    "FakeUpstream",
    "StreamEnded",
    "SyncClient",
    "SyncEvents",
    "UpstreamRequest",
    "connect",
    "connect_sync",
]
