"""How far a subscriber has come in one history."""

from __future__ import annotations

from ..history.position import Position
from .hub import Hub
from .request import Selection, Start
from .snapshots import SnapshotCall
from .tail import Tail


class Cursor:
    """How far a subscriber has come in one history.

    Attributes:
        label: Names the history in the id of a stream of several channels; else empty.
        position: After what it has taken.
        live_from: What has a greater offset was published after the subscription began.
        filtered: The filter's answers for entries that are not taken yet, by offset.
        ephemeral: The number of the newest event of no history that it has taken, or passed over.
        call: The call of the function whose snapshot it waits for: it takes nothing until then.
    """

    __slots__ = (
        "call",
        "ephemeral",
        "filtered",
        "label",
        "live_from",
        "position",
        "selection",
        "tail",
    )

    def __init__(self, selection: Selection, tail: Tail, several: bool) -> None:
        self.selection = selection
        self.label = selection.key.label if several else ""
        self.tail = tail
        self.position = tail.ring.head
        self.live_from = self.position.offset
        self.filtered: dict[int, bool] = {}
        self.ephemeral = tail.newest_ephemeral
        self.call: SnapshotCall | None = None

    @property
    def is_behind(self) -> bool:
        """Whether there is something to take."""
        return self.call is None and self.position.offset != self.tail.ring.head.offset

    @property
    def is_passed(self) -> bool:
        """Whether something of that is no longer there."""
        return self.call is None and self.position.offset < self.tail.ring.floor.offset

    @property
    def is_conflated(self) -> bool:
        """Whether it is slow, in a stream with events that stand for older ones."""
        return self.tail.conflates and self.position.offset < self.tail.offered

    def forget(self) -> None:
        """Forgets the filter's answers for entries that are taken."""
        if self.filtered:
            taken = self.position.offset
            self.filtered = {each: shown for each, shown in self.filtered.items() if each > taken}

    async def start(self, hub: Hub, start: Start) -> None:
        """Goes to where somebody begins who has no position."""
        tail = self.tail
        if start == "live":
            self.position = tail.ring.head
            return
        before = 0 if start == "earliest" else max(tail.ring.head.offset - start, 0)
        await tail.reach_back(hub.broker, before + 1)
        entry = tail.ring.at(before)
        self.position = entry.position if entry is not None else tail.ring.floor

    async def resume(self, hub: Hub, after: Position) -> str | None:
        """Goes to a position that a client has named.

        Returns:
            Why continuity cannot be proved, if it cannot: the reason of the event `reset`.
        """
        reason = await hub.reach(self.tail, after)
        if reason is None:
            self.position = after
        return reason
