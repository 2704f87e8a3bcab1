"""What happened in a soak, and whether it keeps what channels promise: pure functions of a record.

Publishers note what they were told, clients what they saw, and the world what was done to it that
allows for a loss. Nothing here knows the package: an id is text of three parts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Publishes that were told neither an id nor that they failed.
UNCERTAIN = "uncertain"
#: Publishes that were told that nothing is stored.
REFUSED = "refused"

_ID = re.compile(r"([0-9a-f]{16})-(\d+)-(\d+)")
# An event that was published before its history was lost may come that many seconds late.
_LATE = 5.0


class Position(NamedTuple):
    """A place in a history: after the event with this offset."""

    epoch: str
    offset: int
    tag: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}-{self.tag}"


class Published(NamedTuple):
    """One publish: when it was sent and answered, and its id, `UNCERTAIN` or `REFUSED`."""

    room: str
    number: int
    began: float
    ended: float
    outcome: str


class Seen(NamedTuple):
    """One block of a stream: an `event`, a `gap`, a `reset`, a `run-end`, or an id alone, which is
    a `position`."""

    at: float
    kind: str
    id: str
    data: Any = None


@dataclass
class Connection:
    """One response to one client.

    Attributes:
        process: Which process gave it.
        after: The last event id that it was asked with.
        opened: When its headers were there.
        status: Of the response; 0 without one.
    """

    process: str
    after: str | None
    opened: float = 0.0
    status: int = 0
    seen: list[Seen] = field(default_factory=list)


@dataclass
class Client:
    """One client, which comes back with the id that it saw last.

    Attributes:
        room: The key that it reads, or the run that it follows.
        stays: Whether it was connected to the end.
    """

    name: str
    room: str
    connections: list[Connection] = field(default_factory=list)
    stays: bool = False


class Run(NamedTuple):
    """A run that was started: by which process, when, and how many events it has before its end."""

    id: str
    process: str
    began: float
    numbers: int


class Loss(NamedTuple):
    """Redis lost all data, some time between the two."""

    began: float
    ended: float


class Trim(NamedTuple):
    """Everything up to an offset of a history was removed."""

    room: str
    epoch: str
    offset: int


@dataclass
class History:
    """All that happened.

    Attributes:
        stored: What Redis had at the end, by room: ids and numbers.
        kills: When a process was killed.
        calm_from: From when on nothing was disturbed, so that events have to be prompt.
        prompt: Within how many seconds they have to come then.
    """

    published: list[Published] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    stored: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    trims: list[Trim] = field(default_factory=list)
    kills: list[tuple[str, float]] = field(default_factory=list)
    calm_from: float = float("inf")
    prompt: float = 10.0


def violations(history: History) -> list[str]:
    """Returns what should not have happened, in words."""
    truth = _Truth(history)
    found = list(truth.violations())
    runs = {run.id: run for run in history.runs}
    for client in history.clients:
        run = runs.get(client.room)
        walk = _RoomWalk(truth, client) if run is None else _RunWalk(truth, client, run)
        found += [f"{client.name} in {client.room}: {each}" for each in walk.violations()]
    return found


def position_of(id: str) -> Position | None:
    """Returns the position that an id names, if it can be of a history."""
    match = _ID.fullmatch(id)
    return Position(match[1], int(match[2]), int(match[3])) if match else None


class _Truth:
    """What is known of each history, whoever has seen it."""

    def __init__(self, history: History) -> None:
        self.history = history
        # Where each number was seen, and what was seen at each place.
        self.places: dict[tuple[str, int], set[Position]] = defaultdict(set)
        self.numbers: dict[tuple[str, str, int], set[tuple[int, int]]] = defaultdict(set)
        self.acknowledged: dict[str, list[tuple[Published, Position]]] = defaultdict(list)
        self.publishes: dict[tuple[str, Position], Published] = {}
        self._since: dict[tuple[str, str], float] = {}
        for published in history.published:
            position = position_of(published.outcome)
            if position is not None:
                self.acknowledged[published.room].append((published, position))
                self.publishes[published.room, position] = published
                self._note(published.room, position, published.number, published.began)
        for client in history.clients:
            for seen in (each for one in client.connections for each in one.seen):
                self._note_seen(client.room, seen)
        for room, entries in history.stored.items():
            for stored_id, number in entries:
                self._note(room, position_of(stored_id), number, float("inf"))

    def _note_seen(self, room: str, seen: Seen) -> None:
        position = position_of(seen.id)
        if position is None:
            return
        if seen.kind == "event":
            self._note(room, position, seen.data, seen.at - _LATE)
        else:
            self._note_epoch(room, position, seen.at - _LATE)

    def _note(self, room: str, position: Position | None, number: int, at: float) -> None:
        if position is None:
            return
        self.places[room, number].add(position)
        self.numbers[room, position.epoch, position.offset].add((number, position.tag))
        self._note_epoch(room, position, at)

    def _note_epoch(self, room: str, position: Position, at: float) -> None:
        known = self._since.get((room, position.epoch), at)
        self._since[room, position.epoch] = min(known, at)

    def violations(self) -> Iterator[str]:
        for (room, number), places in self.places.items():
            if len(places) > 1:
                yield f"{room}: {number} was stored twice, at {_listed(places)}"
        for (room, epoch, offset), there in self.numbers.items():
            if len(there) > 1:
                yield f"{room}: two events at {epoch}-{offset}: {sorted(there)}"
        for published in self.history.published:
            if published.outcome == REFUSED and (published.room, published.number) in self.places:
                yield f"{published.room}: {published.number} was refused and is stored"
            if published.outcome.startswith("answered"):
                yield f"{published.room}: {published.number} was {published.outcome}"
        for room, acknowledged in self.acknowledged.items():
            yield from self._misordered(room, acknowledged)

    @staticmethod
    def _misordered(room: str, acknowledged: list[tuple[Published, Position]]) -> Iterator[str]:
        """One publisher publishes to each room, one event after another."""
        newest: dict[str, int] = {}
        for published, position in sorted(acknowledged, key=lambda each: each[0].number):
            if position.offset <= newest.get(position.epoch, 0):
                yield f"{room}: {published.number} is out of order, at {position}"
            newest[position.epoch] = position.offset

    def was_lost(self, room: str, position: Position, by: float) -> bool:
        """Whether the history that a position is of was lost before a time."""
        since = self._since.get((room, position.epoch), by - _LATE)
        return any(loss.began <= by and since <= loss.ended for loss in self.history.losses)

    def loses_data_between(self, began: float, ended: float) -> bool:
        return any(
            loss.began <= ended and began - _LATE <= loss.ended for loss in self.history.losses
        )

    def was_trimmed(self, room: str, to: Position) -> bool:
        return any(
            (trim.room, trim.epoch) == (room, to.epoch) and trim.offset >= to.offset
            for trim in self.history.trims
        )


class _Walk:
    """Follows what one client saw, and knows where it stands."""

    def __init__(self, truth: _Truth, client: Client) -> None:
        self.truth = truth
        self.client = client
        self.at: Position | None = None
        self.connection = Connection("", None)

    def violations(self) -> Iterator[str]:
        for connection in self.client.connections:
            self.connection = connection
            yield from self.check_status()
            for seen in connection.seen:
                for each in self.check(seen):
                    yield f"{each} (from {connection.process} at {seen.at:.2f})"
        yield from self.check_end()

    def check(self, seen: Seen) -> Iterator[str]:
        position = position_of(seen.id)
        if position is None:
            yield f"the {seen.kind} has the id {seen.id!r}, which is of no history"
            self.at = None
            return
        if seen.kind == "gap":
            yield from self.check_gap(seen, position)
        elif seen.kind == "reset":
            yield from self.check_reset(seen, position)
        elif seen.kind == "position":
            yield from self.check_position(seen, position)
        else:
            yield from self.check_event(seen, position)
        self.at = position

    def check_status(self) -> Iterator[str]:
        yield from ()

    def check_end(self) -> Iterator[str]:
        yield from ()

    def check_begin(self, position: Position) -> Iterator[str]:
        """Checks where a client begins that has no id."""
        yield from ()

    def check_event(self, seen: Seen, position: Position) -> Iterator[str]:
        at = self.at
        if at is None:
            yield from self.check_begin(position._replace(offset=position.offset - 1))
        elif position.epoch != at.epoch:
            yield f"{position} follows {at} without a reset"
        elif position.offset <= at.offset:
            yield f"repeated: {position} after {at}"
        elif position.offset > at.offset + 1:
            yield f"lost: {position.offset - at.offset - 1} between {at} and {position}"

    def check_gap(self, seen: Seen, to: Position) -> Iterator[str]:
        at, data = self.at, seen.data
        if at is None or to.epoch != at.epoch or to.offset <= at.offset:
            yield f"a gap leads from {at} to {to}"
            return
        if (data["from"], data["to"]) != (str(at), str(to)):
            yield f"a gap from {at} to {to} says {data}"
        if data["missed"] != to.offset - at.offset:
            yield f"wrong missed: {data['missed']} from {at} to {to}"
        if not self.truth.was_trimmed(self.client.room, to):
            yield f"needless gap: nothing was trimmed from {at} to {to}, says {data}"

    def check_reset(self, seen: Seen, to: Position) -> Iterator[str]:
        at, reason = self.at, seen.data["reason"]
        if at is None:
            # What was published while it was connected may have been lost before it came.
            if not self.truth.loses_data_between(self.connection.opened, seen.at):
                yield f"needless reset: {reason}, and it had no id"
        elif at.epoch == to.epoch:
            yield f"needless reset: {reason}, and {to} continues {at}"
        elif not self.truth.was_lost(self.client.room, at, seen.at):
            yield f"needless reset: {reason}, and {at} was never lost"
        elif reason not in ("epoch", "diverged"):
            yield f"the reset from {at} to {to} says {reason}"

    def check_position(self, seen: Seen, position: Position) -> Iterator[str]:
        if self.at is None:
            yield from self.check_begin(position)
        elif position != self.at:
            yield f"it is told {position} and stands at {self.at}"


class _RoomWalk(_Walk):
    """A client of a room, which begins with what is live."""

    def check_status(self) -> Iterator[str]:
        status, after = self.connection.status, self.connection.after
        if status not in (0, 200) and (after or status != 503):
            yield f"it came with {after} and was answered {status}"

    def check_begin(self, position: Position) -> Iterator[str]:
        for published, place in self.truth.acknowledged[self.client.room]:
            is_before = place.epoch == position.epoch and place.offset <= position.offset
            if is_before and published.began > self.connection.opened:
                yield f"lost: {place} was published after its headers, and it begins at {position}"

    def check_event(self, seen: Seen, position: Position) -> Iterator[str]:
        yield from super().check_event(seen, position)
        history = self.truth.history
        published = self.truth.publishes.get((self.client.room, position))
        if published is None or published.began < max(history.calm_from, self.connection.opened):
            return
        late = seen.at - published.ended
        if late > history.prompt:
            yield f"late: {position} came after {late:.1f} s"

    def check_end(self) -> Iterator[str]:
        acknowledged = self.truth.acknowledged[self.client.room]
        if not (self.client.stays and acknowledged):
            return
        newest = max(acknowledged, key=lambda each: each[0].began)[1]
        at = self.at
        if at is None or at.epoch != newest.epoch or at.offset < newest.offset:
            yield f"lost: it stands at {at} in the end, and {newest} was published"


class _RunWalk(_Walk):
    """A client of a run, which begins with its first event."""

    def __init__(self, truth: _Truth, client: Client, run: Run) -> None:
        super().__init__(truth, client)
        self.run = run
        self.end: str | None = None

    @property
    def may_be_lost(self) -> bool:
        history = self.truth.history
        return any(loss.ended >= self.run.began for loss in history.losses) or any(
            process == self.run.process and at >= self.run.began for process, at in history.kills
        )

    def check_status(self) -> Iterator[str]:
        status = self.connection.status
        if status not in (0, 200, 204) and not (status == 404 and self.may_be_lost):
            yield f"it was answered {status}"

    def check_begin(self, position: Position) -> Iterator[str]:
        if position.offset:
            yield f"lost: a run begins at {position}"

    def check_event(self, seen: Seen, position: Position) -> Iterator[str]:
        yield from super().check_event(seen, position)
        if self.end is not None:
            yield f"{position} comes after the end"
        if seen.kind != "run-end":
            if seen.data != position.offset - 1:
                yield f"{position} is {seen.data}"
            return
        self.end = seen.data["end"]
        if self.end == "done":
            if position.offset != self.run.numbers + 1:
                yield f"it is done at {position}, and has {self.run.numbers} events"
        elif self.end != "lost" or not self.may_be_lost:
            yield f"it ends as {seen.data}"

    def check_end(self) -> Iterator[str]:
        statuses = [each.status for each in self.client.connections]
        if self.client.stays and self.end is None and 404 not in statuses:
            yield f"lost: it stands at {self.at}, and was never told the end"


def _listed(positions: set[Position]) -> str:
    return ", ".join(str(each) for each in sorted(positions))
