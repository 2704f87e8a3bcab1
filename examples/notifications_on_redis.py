"""Notifications in every tab of a user, whichever process serves it, and from a worker too.

`REDIS_URL=redis://localhost:6379/0 uvicorn notifications_on_redis:app --workers 2` serves them, and
`notify.py` publishes from a process of its own. A tab that was away gets what it has missed: an
`EventSource` comes back with the id of the last event that it had. Here the path says who the user
is; in an application the session does.
"""

import os
from typing import Annotated

from fastapi import FastAPI, Path
from pydantic import BaseModel

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription


class Notification(BaseModel):
    text: str


channels = Channels(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
notifications = channels.channel(
    "notifications", Notification, keyed=True, history=100, history_ttl=86_400
)
app = FastAPI(lifespan=channels.lifespan)
User = Annotated[str, Path(max_length=128)]  # bounded: a stranger writes it


@app.get("/users/{user}/notifications", response_class=EventSourceResponse)
async def read_notifications(
    user: User, last_event_id: LastEventID = None
) -> Subscription[Notification]:
    return notifications.subscribe(key=user, after=last_event_id, start=10)


@app.post("/users/{user}/notifications")
async def notify(user: User, notification: Notification) -> str:
    return await notifications.publish(notification, key=user)
