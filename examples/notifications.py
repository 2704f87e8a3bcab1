"""A channel with a key for each user. A client gets the stored notifications, and then new ones
until the user logs out.

Here the user is in the path. In your application take the user from the session.
"""

from typing import Annotated

from fastapi import FastAPI, Path
from pydantic import BaseModel

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription


class Notification(BaseModel):
    text: str


channels = Channels(max_subscribers_per_owner=5)
notifications = channels.channel(
    "notifications", Notification, keyed=True, history=100, history_ttl=86_400
)
app = FastAPI(lifespan=channels.lifespan)
User = Annotated[str, Path(max_length=128)]  # limited, because clients choose it


@app.get("/users/{user}/notifications", response_class=EventSourceResponse)
async def read_notifications(
    user: User, last_event_id: LastEventID = None
) -> Subscription[Notification]:
    return notifications.subscribe(key=user, after=last_event_id, start="earliest", owner=user)


@app.post("/users/{user}/notifications")
def notify(user: User, notification: Notification) -> str:
    """Publishes from a plain function, which FastAPI runs in a thread without an event loop."""
    return notifications.publish_soon(notification, key=user).result(timeout=10)


@app.delete("/users/{user}/session")
async def log_out(user: User) -> None:
    await channels.disconnect(owner=user)
