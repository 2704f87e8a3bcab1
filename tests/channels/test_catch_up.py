"""Following a history by messages that get lost, come twice or come late, whatever the broker."""

from __future__ import annotations

import asyncio
import random
from unittest.mock import ANY

import pytest

from followers import Notes, item
from sserpent.channels.history.catch_up import CatchUp
from sserpent.channels.history.position import HistoryKey, Position, beginning
from sserpent.channels.history.ring import Entry, Retention, Ring

pytestmark = pytest.mark.once

LIMITS = Retention(history=1_000, history_ttl=3_600, history_bytes=2**22)


class Followed(CatchUp):
    """A history in memory whose messages a test gives on or not."""

    def __init__(self) -> None:
        super().__init__(HistoryKey("rooms", None), LIMITS)
        self.ring = Ring(LIMITS, beginning())
        self.is_due = False
        self.messages: list[tuple[Entry, int]] = []

    async def read_head(self) -> Position:
        await asyncio.sleep(0)
        return self.ring.head

    async def read_page(self, first: int, count: int = 7) -> list[Entry]:
        await asyncio.sleep(0)
        return self.ring.after(first - 1)[:count]

    def refresh_soon(self) -> None:
        self.is_due = True

    async def refresh_if_due(self) -> None:
        while self.is_due:
            self.is_due = False
            await self.refresh()

    def publish(self, number: int) -> None:
        before = self.ring.head
        entry = item(number).entry(before, 0)
        self.ring.append(entry)
        self.messages.append((entry, before.tag))

    def deliver(self, at: int) -> None:
        self.on_entry(*self.messages.pop(at))


@pytest.mark.parametrize("seed", range(40))
def test_followers_are_given_each_entry_once_and_in_order(seed: int) -> None:
    dice = random.Random(seed)

    async def main() -> None:
        followed, notes = Followed(), Notes()
        followed.followers = (notes,)
        for step in range(200):
            action = dice.choice("ppppddddlrsa")
            if action == "p":
                followed.publish(step)
            elif action == "s":
                followed.on_subscribed()
            elif action == "a":
                followed.on_lost()
            elif action == "r":
                refreshing = asyncio.create_task(followed.refresh_if_due())
                followed.publish(step)
                while followed.messages and dice.random() < 0.5:
                    followed.deliver(0)
                await refreshing
            elif followed.messages:
                at = dice.randrange(len(followed.messages)) if dice.random() < 0.2 else 0
                if action == "d":
                    followed.deliver(at)
                else:
                    followed.messages.pop(at)
        begun = notes.offsets[0] if notes.told else followed.ring.head.offset + 1
        followed.on_subscribed()
        await followed.refresh_if_due()
        assert followed.cursor == followed.ring.head
        assert notes.offsets == list(range(begun, followed.ring.head.offset + 1))
        followed.publish(1_000)
        while followed.messages:
            followed.deliver(0)
        assert notes.offsets[-1] == followed.ring.head.offset

    asyncio.run(main())


@pytest.mark.parametrize(("kept", "numbers"), [(3, [18, 19, 20]), (20, [*range(1, 21)]), (0, [])])
def test_c7_followers_are_given_what_is_kept_of_a_history_that_began_anew(
    kept: int, numbers: list[int]
) -> None:
    async def main() -> None:
        followed, notes = Followed(), Notes()
        followed.followers = (notes,)
        followed.publish(0)
        followed.on_subscribed()
        await followed.refresh_if_due()
        followed.on_lost()
        followed.ring = Ring(LIMITS._replace(history=kept), beginning())
        for number in range(1, 21):
            followed.publish(number)
        followed.ring.trim(0)
        followed.on_subscribed()
        await followed.refresh_if_due()
        assert notes.brief == ["epoch", *numbers]
        assert notes.told[0] == ("epoch", (followed.ring.head.epoch, 20 - kept, ANY))
        assert followed.cursor == followed.ring.head

    asyncio.run(main())
