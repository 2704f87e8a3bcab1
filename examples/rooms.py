"""Channels: all clients of a room get each message, also those that reconnect later."""

from typing import Annotated

from fastapi import FastAPI, Path
from pydantic import BaseModel

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription


class Message(BaseModel):
    author: str
    text: str


channels = Channels()
rooms = channels.channel("rooms", Message, keyed=True)
app = FastAPI(lifespan=channels.lifespan)
Room = Annotated[str, Path(max_length=128)]  # limited, because clients choose it


@app.get("/rooms/{room}", response_class=EventSourceResponse)
async def read_room(room: Room, last_event_id: LastEventID = None) -> Subscription[Message]:
    return rooms.subscribe(key=room, after=last_event_id)


@app.post("/rooms/{room}")
async def write_to_room(room: Room, message: Message) -> str:
    return await rooms.publish(message, key=room)
