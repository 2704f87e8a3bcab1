"""What a small world is, and all of them up to a cost.

A world costs nothing if all is well in it, and 1 for each thing that is not: a `send` that waits, a
client that leaves, an option that is set. So the worlds up to cost 2 are those with any two such
things, in any combination.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

#: Longer than anything else in a world.
FOREVER = 1_000_000.0
#: When a client leaves that has not left before; its server shuts down later, for a stream that has
#: not noticed, and cancels the request in the end.
LEAVES_AT, SHUTS_DOWN_AT, CANCELS_AT = 20.0, 30.0, 50.0


class Act(NamedTuple):
    """What somebody else does to the stream.

    Attributes:
        kind: "cancel" cancels the task of the request once, "scope" cancels a scope of anyio's
            around it, "shutdown" begins to shut the server down.
        turns: After how many turns of the event loop; None for before the stream opens.
        seconds: After how many seconds, besides.
    """

    kind: str
    turns: int | None = 0
    seconds: float = 0.0


class World(NamedTuple):
    """One stream, and all that happens around it.

    Attributes:
        generator: What it does, letter by letter; it ends after the last.
        cleanup: What its `finally` does.
        send: What each `send` does, in order; all further ones "returns".
        receive: What `receive` does, in order; then it waits until the client leaves.
        acts: What else happens.
        told: What `on_disconnect` does.
        options: Those of `EventSourceResponse` that are set.
        kind: "async" or "sync" for a generator of that kind, "source" for one that pushes.
        server: "unknown", or "known" for one whose connections can be closed.
    """

    generator: tuple[str, ...] = ("yields",)
    cleanup: tuple[str, ...] = ()
    send: tuple[str, ...] = ()
    receive: tuple[str, ...] = ("body",)
    acts: tuple[Act, ...] = ()
    told: str = "returns"
    options: tuple[tuple[str, Any], ...] = ()
    kind: str = "async"
    server: str = "unknown"

    def __repr__(self) -> str:
        said = [
            f"{name}={value!r}"
            for name, value, usual in zip(self._fields, self, World(), strict=True)
            if value != usual
        ]
        return f"World({', '.join(said)})"

    def option(self, name: str) -> Any:
        return {**USUAL, **dict(self.options)}[name]


#: The options of every world, unless it sets them. Short, and none twice, so that a time says what
#: it belongs to.
USUAL: dict[str, Any] = {
    "ping_interval": None,
    "open_delay": 0.25,
    "send_timeout": None,
    "cleanup_timeout": 4.0,
    "shutdown_grace": 0.0,
    "max_duration": None,
    "max_pending": 65_536,
}

# Letter: cost. After one of `_LAST` comes no other.
_STEPS = {"yields": 0, "turn": 1, "second": 1, "timeout": 1, "swallows": 1, "reads": 1}
_LAST = {"": 0, "forever": 0, "raises": 1, "odd": 2, "cancelled": 2}
_SENDS = {
    "turn": 1,
    "second": 1,
    "drains": 1,
    "stalls": 1,
    "gone": 1,
    "gone later": 1,
    "fails": 1,
    "fails later": 2,
    "cancelled": 1,
    "times out": 1,
    "deaf": 1,
}
_CLEANUPS = {
    (): 0,
    ("turn",): 1,
    ("second",): 1,
    ("raises",): 1,
    ("forever",): 1,
    ("deaf",): 2,
    ("turn", "raises"): 2,
    ("second", "raises"): 2,
}
_RECEIVES: dict[tuple[str, ...], int] = {
    ("body",): 0,
    ("gone",): 1,
    ("raises",): 1,
    ("replays",): 1,
    ("part",): 1,
    ("part", "body"): 1,
    ("part", "gone"): 1,
    ("part", "second", "body"): 2,
    ("part", "second", "gone"): 2,
    ("part", "replays"): 2,
    ("turn", "gone"): 2,
    **{("body", *["turn"] * turns, "gone"): 1 for turns in range(4)},
    **{("body", *["turn"] * turns, "raises"): 1 for turns in range(2)},
    ("body", "second", "gone"): 1,
    ("body", "second", "raises"): 1,
    ("body", "turn", "replays"): 2,
}
_ACTS = {
    Act("shutdown", None): 1,
    **{
        Act(kind, turns, seconds): 1
        for kind in ("cancel", "scope", "shutdown")
        for turns, seconds in ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (0, 0.1), (0, 1), (0, 1.5))
    },
}
_TOLD = {"returns": 0, "second": 1, "raises": 1, "forever": 1}
_OPTIONS: dict[tuple[str, Any], int] = {
    ("ping_interval", 0.3): 1,
    ("open_delay", 0): 1,
    ("open_delay", None): 1,
    ("send_timeout", 2): 1,
    ("cleanup_timeout", 0): 1,
    ("shutdown_grace", 3): 1,
    ("max_duration", 6): 1,
    ("max_pending", 1): 1,
}
_KINDS = {"async": 0, "sync": 1}
_SERVERS = {"unknown": 0, "known": 1}
_LONGEST = 3  # letters of a generator before its last


@lru_cache
def _generators(cost: int) -> list[tuple[str, ...]]:
    words = []
    for length in range(_LONGEST + 1):
        for steps in product(_STEPS, repeat=length):
            spent = sum(_STEPS[each] for each in steps) + max(steps.count("yields") - 1, 0)
            words += [
                (*steps, *([last] if last else [])) for last in _LAST if spent + _LAST[last] == cost
            ]
    return words


@lru_cache
def _sends(cost: int) -> list[tuple[str, ...]]:
    if not cost:
        return [()]
    words: list[tuple[str, ...]] = []
    for length in range(1, 5):
        words += [
            word
            for word in product(("returns", *_SENDS), repeat=length)
            if word[-1] != "returns" and sum(_SENDS.get(each, 0) for each in word) == cost
        ]
    return words


@lru_cache
def _subsets(letters: Any, cost: int) -> list[tuple[Any, ...]]:
    """Returns those letters, each at most once, in order, that cost this much together."""
    if not cost:
        return [()]
    if not letters:
        return []
    (letter, price), *others = letters
    rest = tuple(others)
    with_it = [(letter, *each) for each in _subsets(rest, cost - price)] if price <= cost else []
    return with_it + _subsets(rest, cost)


def _options(cost: int) -> list[tuple[Any, ...]]:
    found = _subsets(tuple(_OPTIONS.items()), cost)
    return [each for each in found if len({name for name, _ in each}) == len(each)]


def _of(letters: dict[Any, int], cost: int) -> list[Any]:
    return [letter for letter, price in letters.items() if price == cost]


def _parts(cost: int) -> list[list[Any]]:
    """Returns, for each field of a world in order, its values of this cost."""
    return [
        _generators(cost),
        _of(_CLEANUPS, cost),
        _sends(cost),
        _of(_RECEIVES, cost),
        _subsets(tuple(_ACTS.items()), cost),
        _of(_TOLD, cost),
        _options(cost),
        _of(_KINDS, cost),
        _of(_SERVERS, cost),
    ]


def _splits(cost: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (cost,)
        return
    for first in range(cost + 1):
        for rest in _splits(cost - first, parts - 1):
            yield (first, *rest)


def worlds(cost: int) -> Iterator[World]:
    """Returns all worlds of a cost whose parts can all matter."""
    by_cost = [_parts(each) for each in range(cost + 1)]
    for split in _splits(cost, len(World._fields)):
        for fields in product(*(by_cost[each][part] for part, each in enumerate(split))):
            world = World(*fields)
            if _makes_sense(world):
                yield world


def _makes_sense(world: World) -> bool:
    """Returns whether no part of a world is without effect for sure."""
    options = dict(world.options)
    if world.kind == "sync" and not _runs_in_a_thread(world):
        return False
    if "shutdown_grace" in options and not any(each.kind == "shutdown" for each in world.acts):
        return False
    if world.server == "known" and not any(each.kind == "shutdown" for each in world.acts):
        return False
    return [each.kind for each in world.acts].count("shutdown") < 2


def _runs_in_a_thread(world: World) -> bool:
    """Returns whether a world has only letters that a sync generator has."""
    return {*world.generator, *world.cleanup} <= {"yields", "second", "forever", "raises", "odd"}


def smaller(world: World) -> Iterator[World]:
    """Returns worlds that are like this one and simpler by one step."""
    usual = World()
    for name, value in world._asdict().items():
        if value == getattr(usual, name):
            continue
        yield world._replace(**{name: getattr(usual, name)})
        if isinstance(value, tuple):
            for index, letter in enumerate(value):
                yield world._replace(**{name: value[:index] + value[index + 1 :]})
                if name == "send" and letter != "returns":
                    yield world._replace(send=(*value[:index], "returns", *value[index + 1 :]))
    for index, act in enumerate(world.acts):
        if act.turns or act.seconds:
            earlier = act._replace(turns=max((act.turns or 0) - 1, 0), seconds=0.0)
            yield world._replace(acts=(*world.acts[:index], earlier, *world.acts[index + 1 :]))
