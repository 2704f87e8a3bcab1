"""Goes through small worlds, and makes one that fails smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .model import complaints
from .scripts import World, smaller
from .stage import Story

Play = Callable[[Iterable[World]], Iterator[Story]]


def failures(play: Play, worlds: Iterable[World]) -> Iterator[tuple[Story, list[str]]]:
    """Returns the worlds whose stories are wrong, with what is wrong."""
    for story in play(worlds):
        wrong = complaints(story)
        if wrong:
            yield story, wrong


def smallest(play: Play, world: World) -> tuple[World, list[str]]:
    """Makes a world that fails smaller for as long as it fails."""
    wrong = complaints(next(iter(play([world]))))
    while True:
        found = next(failures(play, smaller(world)), None)
        if found is None:
            return world, wrong
        world, wrong = found[0].world, found[1]
