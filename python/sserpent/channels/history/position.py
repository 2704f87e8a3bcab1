"""Places in a history, and the ids that name them to clients.

An id is `<epoch>-<offset>-<tag>`. The epoch names one life of a history, the offset rises by
exactly 1, and the tag tells apart two events that got the same offset, as after a failover that
lost the newest ones. A stream of several channels has one id that holds for each
`<hash of channel and key>.<id>`.

Ids come back from clients and are not trusted: what does not follow the grammar is no position.
Neither is `0-0-0`, which would be a place in no history: every id that is given out is of one.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from typing import NamedTuple

#: How many bytes an id may have for each channel of its stream.
MAX_ID = 64

_POSITION = re.compile(r"([0-9a-f]{1,16})-(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,9})", re.ASCII)
_PART = re.compile(r"([0-9a-f]{8})\.(.+)", re.ASCII)
_BETWEEN = "~"


class Position(NamedTuple):
    """A place in a history: after the event with this offset.

    Attributes:
        epoch: Which life of the history, in hexadecimal digits.
        offset: Of the event, counted from 1; 0 is before the first one.
        tag: 32 random bits of the event, not 0; 0 where they are not known.
    """

    epoch: str
    offset: int
    tag: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}-{self.tag}"


#: A place in no history. It is never given out.
NOWHERE = Position("0", 0, 0)
#: For how many seconds a history lives that nobody follows and nobody has published to.
UNUSED_TTL = 300.0


# Not the system's, a call of which takes longer than framing an event; nor the module's, which an
# application may seed alike in all of its processes.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_epoch() -> str:
    """Returns the name of a new life of a history."""
    return f"{_random.getrandbits(64):016x}"


def beginning() -> Position:
    """Returns the place before the first event of a new life of a history."""
    return Position(new_epoch(), 0, 0)


def new_tag() -> int:
    """Returns 32 random bits, not 0."""
    return _random.getrandbits(32) or 1


class HistoryKey(NamedTuple):
    """One history: a channel, or one key of a channel that has keys."""

    channel: str
    key: str | None

    @property
    def label(self) -> str:
        """Returns what names it in the id of a stream of several channels: a hash, because ids
        appear in URLs and logs."""
        # With lengths, so that no other pair of channel and key is the same text.
        key = "" if self.key is None else f"{len(self.key)}:{self.key}"
        text = f"{len(self.channel)}:{self.channel}{key}"
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def parse_id(text: str) -> Position | None:
    """Returns the position that an id names, or None if it is not one of ours."""
    found = _POSITION.fullmatch(text) if len(text) <= MAX_ID else None
    position = Position(found[1], int(found[2]), int(found[3])) if found else NOWHERE
    return None if position == NOWHERE else position


def join_ids(ids: dict[str, str]) -> str:
    """Returns the id of a stream of several channels, from the id of each by its label."""
    return _BETWEEN.join(f"{label}.{each}" for label, each in ids.items())


def parse_ids(text: str, channels: int) -> dict[str, Position] | None:
    """Returns the positions in an id of a stream of several channels, by label, or None if it is
    not one of ours, or too long for so many."""
    if len(text) > MAX_ID * channels:
        return None
    positions: dict[str, Position] = {}
    for part in text.split(_BETWEEN):
        found = _PART.fullmatch(part)
        position = parse_id(found[2]) if found else None
        if not found or position is None:
            return None
        positions[found[1]] = position
    return positions
