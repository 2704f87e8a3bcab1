"""A channel with a key for each user, who gets all that is kept, and more until the logout.

Here the path says who the user is; in an application the session does.
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
User = Annotated[str, Path(max_length=128)]  # bounded: a stranger writes it


@app.get("/users/{user}/notifications", response_class=EventSourceResponse)
async def read_notifications(
    user: User, last_event_id: LastEventID = None
) -> Subscription[Notification]:
    return notifications.subscribe(key=user, after=last_event_id, start="earliest", owner=user)


@app.post("/users/{user}/notifications")
def notify(user: User, notification: Notification) -> str:
    """FastAPI runs a plain function in a thread, from where nothing can be awaited."""
    return notifications.publish_soon(notification, key=user).result(timeout=10)


@app.delete("/users/{user}/session")
async def log_out(user: User) -> None:
    await channels.disconnect(owner=user)
