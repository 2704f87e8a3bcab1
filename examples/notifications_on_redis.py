"""Notifications in every tab of a user, no matter which worker serves the tab.

Start the workers with `REDIS_URL=redis://localhost:6379/0 uvicorn notifications_on_redis:app
--workers 2`, and publish from another process with `notify.py`. A tab that reconnects gets the
notifications that it missed. Here the user is in the path. In your application take the user from
the session.
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
User = Annotated[str, Path(max_length=128)]  # limited, because clients choose it


@app.get("/users/{user}/notifications", response_class=EventSourceResponse)
async def read_notifications(
    user: User, last_event_id: LastEventID = None
) -> Subscription[Notification]:
    return notifications.subscribe(key=user, after=last_event_id, start=10)


@app.post("/users/{user}/notifications")
async def notify(user: User, notification: Notification) -> str:
    return await notifications.publish(notification, key=user)
