"""Events that are numbers, and a follower that notes what it is given."""

from __future__ import annotations

import anyio

from sserpent.channels.history.broker import Item
from sserpent.channels.history.position import Position
from sserpent.channels.history.ring import Entry


class Notes:
    """Notes entries, and the reasons and positions of resets."""

    def __init__(self) -> None:
        self.told: list[Entry | tuple[str, Position]] = []
        self.ephemeral: list[Item] = []

    def receive(self, entry: Entry) -> bool:
        self.told.append(entry)
        return False

    def receive_ephemeral(self, item: Item) -> bool:
        self.ephemeral.append(item)
        return False

    def count(self) -> int:
        return 0

    def reset(self, reason: str, head: Position) -> None:
        self.told.append((reason, head))

    @property
    def entries(self) -> list[Entry]:
        """The entries, of a follower that was never reset."""
        assert all(isinstance(each, Entry) for each in self.told), self.told
        return [each for each in self.told if isinstance(each, Entry)]

    @property
    def offsets(self) -> list[int]:
        return [entry.offset for entry in self.entries]

    @property
    def numbers(self) -> list[int]:
        return [number_of(entry) for entry in self.entries]

    @property
    def brief(self) -> list[int | str]:
        """The numbers of events, and the reasons of resets."""
        return [number_of(each) if isinstance(each, Entry) else each[0] for each in self.told]

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.told if isinstance(each, Entry)]

    async def have(self, count: int) -> None:
        """Waits for so many, as long as the test may last."""
        while len(self.told) < count:
            await anyio.sleep(0.002)


def item(number: int) -> Item:
    return Item(b"data: %d\n\n" % number)


def number_of(entry: Entry) -> int:
    return int(entry.body[6:])
