"""Channels: publish once, and all clients that are subscribed get it, those who were away too.

from sserpent.channels import Channels, LastEventID

channels = Channels()
rooms = channels.channel("rooms", Message, keyed=True)

@app.get("/rooms/{room}", response_class=EventSourceResponse)
async def read(room: str, last_event_id: LastEventID = None) -> Subscription[Message]:
    return rooms.subscribe(key=room, after=last_event_id)

@app.post("/rooms/{room}")
async def write(room: str, message: Message) -> str:
    return await rooms.publish(message, key=room)
"""

from .._fastapi.last_event_id import LastEventID
from .channel import Channel, Key
from .channels import Channels
from .fanout.request import Selection
from .history.broker import BrokerError, BrokerUnavailable, ChannelsClosed, PublishUncertain
from .listener import Listener
from .runs.ends import RunStatus
from .runs.runs import Run, Runs
from .subscription import Subscription

__all__ = [
    "BrokerError",
    "BrokerUnavailable",
    "Channel",
    "Channels",
    "ChannelsClosed",
    "Key",
    "LastEventID",
    "Listener",
    "PublishUncertain",
    "Run",
    "RunStatus",
    "Runs",
    "Selection",
    "Subscription",
]
