"""Every short script of a stream, its client, its server and time: the machine's own search for the
case that nobody thought of.

`tests/support/explorer/` plays them, and holds each against a model. The suite plays all worlds up
to a cost, and a sample of the next; `make explore` plays more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from explorer.model import complaints
from explorer.scripts import Act, World, worlds
from explorer.search import Play, failures, smallest
from explorer.stage import on_asyncio, on_trio

# All worlds up to this cost are played.
BOUND = int(os.environ.get("SSERPENT_WORLDS", "2"))
# Of those that cost one more, one in so many.
SAMPLE = 60
# The tests that the worlds are dealt out to.
SLICES = 10 if BOUND < 3 else 200

players = pytest.mark.parametrize("play", [on_asyncio, on_trio], ids=["asyncio", "trio"])


def all_worlds() -> Iterator[World]:
    for cost in range(BOUND + 1):
        yield from worlds(cost)
    yield from (world for index, world in enumerate(worlds(BOUND + 1)) if index % SAMPLE == 0)


@players
@pytest.mark.parametrize("part", range(SLICES))
def test_every_small_world_comes_out_as_the_model_says(play: Play, part: int) -> None:
    mine = (world for index, world in enumerate(all_worlds()) if index % SLICES == part)
    failed = next(failures(play, mine), None)
    if failed is not None:
        world, wrong = smallest(play, failed[0].world)
        pytest.fail(
            f"{world!r}\n  "
            + "\n  ".join(wrong)
            + f"\nmade of {failed[0].world!r}\n  "
            + "\n  ".join(failed[1]),
            pytrace=False,
        )


def compressed_worlds() -> Iterator[World]:
    """Those of the tests above that cost less, for clients that take gzip."""
    for cost in range(BOUND):
        yield from worlds(cost)
    yield from (world for index, world in enumerate(worlds(BOUND)) if index % SAMPLE == 0)


@players
@pytest.mark.parametrize("part", range(SLICES))
def test_z7_compressed_streams_come_out_as_the_model_says_and_end_with_gzip_if_whole(
    play: Play, part: int
) -> None:
    mine = (
        world._replace(options=(*world.options, ("compress", True)))
        for index, world in enumerate(compressed_worlds())
        if index % SLICES == part
    )
    failed = next(failures(play, mine), None)
    if failed is not None:
        pytest.fail(f"{failed[0].world!r}", pytrace=False)


# What was found once. Each is as small as it can be.
FOUND = {
    "a client that has left before its stream opens": World(receive=("gone",)),
    "a receive that fails before its stream opens": World(receive=("raises",)),
    "a shutdown in the turn in which a stream opens": World(acts=(Act("shutdown"),)),
    "a receive that gives the same message for ever": World(receive=("replays",)),
    "headers and an event that each take less than send_timeout": World(
        send=("drains", "drains"), options=(("send_timeout", 2),)
    ),
    "a send with a timeout of its own that is given up": World(
        send=("times out",), acts=(Act("shutdown"),), options=(("cleanup_timeout", 0),)
    ),
    "a receive that fails while the client does not read": World(
        send=("stalls",), receive=("turn", "raises")
    ),
    "a shutdown in the turn in which a stream returns": World(acts=(Act("shutdown", 2),)),
    "a shutdown one turn later": World(acts=(Act("shutdown", 3),)),
    "a cancelled request whose generator fails": World(
        cleanup=("raises",), acts=(Act("scope", 0),)
    ),
    "a cancelled request whose generator has not begun": World(
        send=("second",), acts=(Act("scope"),), options=(("open_delay", 0),)
    ),
    "a failed stream whose client does not read": World(
        cleanup=("raises",), send=("stalls",), options=(("max_duration", 6),)
    ),
}


@players
@pytest.mark.parametrize("world", FOUND.values(), ids=FOUND)
def test_worlds_that_were_found_once(play: Play, world: World) -> None:
    for story in play([world]):
        assert complaints(story) == []


@players
def test_the_model_can_complain(play: Play) -> None:
    """Guards the tests above: a story that is changed in any part is wrong."""
    (story,) = play([World(generator=("yields", "second", "yields"))])
    assert complaints(story) == []
    kept, story.accepted = story.accepted, story.accepted[:1]
    assert "lost" in str(complaints(story)) or "no end" in str(complaints(story))
    story.accepted = kept
    story.ended_at, kept_at = 9.0, story.ended_at
    assert "it ended at 9" in str(complaints(story))
    story.ended_at = kept_at
    story.log = ["ERROR sserpent: oh"]
    assert "the log has" in str(complaints(story))
    story.log = []
    story.left = ["a task"]
    assert "left: a task" in str(complaints(story))
    story.left = []
    story.error = LookupError()
    assert "it raised" in str(complaints(story))
    story.error = None
    story.notes = [each for each in story.notes if each.what != "closed"]
    assert "closed 0 times" in str(complaints(story))


def test_a_world_that_fails_is_made_smaller() -> None:
    def play(played: object) -> Iterator[object]:
        for story in on_asyncio(played):  # type: ignore[arg-type]
            if "drains" in story.world.send:
                story.faults.append("drains")
            yield story

    large = World(
        generator=("yields", "second", "yields"),
        cleanup=("turn",),
        send=("turn", "drains", "second"),
        acts=(Act("shutdown", 3),),
        options=(("ping_interval", 0.3),),
    )
    world, wrong = smallest(play, large)  # type: ignore[arg-type]
    assert world == World(send=("drains",))
    assert wrong == ["drains"]
