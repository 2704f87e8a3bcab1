"""A script that publishes a notification to a user's tabs.

REDIS_URL=redis://localhost:6379/0 python notify.py ada "Your report is ready"
"""

import asyncio
import sys

from notifications_on_redis import Notification, channels, notifications


async def notify(user: str, text: str) -> None:
    async with channels:
        print(await notifications.publish(Notification(text=text), key=user))


if __name__ == "__main__":
    asyncio.run(notify(*sys.argv[1:]))
