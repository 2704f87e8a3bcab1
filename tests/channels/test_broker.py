"""The contract of a broker: the same tests over each."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from followers import Notes, item, number_of
from pages import DOCS, run_blocks
from sserpent.channels.history.broker import Broker, Item
from sserpent.channels.history.memory import MemoryBroker
from sserpent.channels.history.position import HistoryKey, Position, parse_id
from sserpent.channels.history.ring import Entry, Retention

# A broker is given frames that are made already.
pytestmark = [pytest.mark.once, pytest.mark.anyio]

LIMITS = Retention(history=1_000, history_ttl=3_600, history_bytes=2**22)
ALL = 1, 10**9

_numbers = itertools.count()


@pytest.fixture(
    params=[
        "memory-asyncio",
        "memory-trio",
        "documented-asyncio",
        "documented-trio",
        "redis-asyncio",
    ]
)
def setting(request: pytest.FixtureRequest) -> list[str]:
    """The kind of a broker, and an event loop that it runs on."""
    return str(request.param).split("-")


@pytest.fixture
def anyio_backend(setting: list[str]) -> str:
    return setting[1]


@pytest.fixture
def url(setting: list[str], request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("kept_redis").url) if setting[0] == "redis" else ""


@pytest.fixture
async def broker(setting: list[str], url: str) -> AsyncIterator[Broker]:
    """A broker of the test's own."""
    made = made_of(setting[0], url)
    made.open()
    yield made
    await made.aclose()


def made_of(kind: str, url: str) -> Broker:
    if kind == "memory":
        return MemoryBroker()
    if kind == "documented":
        return documented_broker()
    from sserpent.channels.redis import RedisBroker

    return RedisBroker(url, prefix=f"test-{next(_numbers)}")


def documented_broker() -> Broker:
    """Returns the broker of the page on the architecture."""
    broker: Broker = run_blocks(DOCS / "architecture.md")["DictBroker"]()
    return broker


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await anyio.sleep(0.002)


def stream(key: str | None = None, channel: str = "rooms") -> HistoryKey:
    return HistoryKey(channel, key)


async def publish(
    broker: Broker, each: HistoryKey, *numbers: int, limits: Retention = LIMITS
) -> list[str]:
    return [await broker.publish(each, limits, item(number)) for number in numbers]


# Ids


async def test_c1_an_id_has_the_epoch_an_offset_that_rises_by_one_and_a_tag(broker: Broker) -> None:
    ids = await publish(broker, stream(), *range(20))
    positions = [parse_id(each) for each in ids]
    assert [str(position) for position in positions] == ids
    assert len({position.epoch for position in positions if position}) == 1
    assert [position.offset for position in positions if position] == list(range(1, 21))
    tags = {position.tag for position in positions if position}
    assert len(tags) == 20
    assert all(0 < tag < 2**32 for tag in tags)


async def test_followers_and_readers_get_what_was_published_under_its_id(broker: Broker) -> None:
    items = [
        Item(b"data: 1\n\n"),
        Item(b"event: a\ndata: x\n\n", True),
        Item("data: \u00fc \U0001f600\n\n".encode(), False, ""),
        Item(b": " + b"x" * 100_000 + b"\n\n", True, "a b\nc = \u00fc {}"),
    ]

    notes = Notes()
    await broker.follow(stream(), LIMITS, notes)
    before = broker.now()
    ids = [await broker.publish(stream(), LIMITS, each) for each in items]
    await notes.have(len(items))
    _, read = await broker.read(stream(), LIMITS, *ALL)
    for entries in (notes.entries, read):
        assert [Item(each.body, each.raw, each.conflate) for each in entries] == items
        assert [each.id for each in entries] == ids
        assert [each.frame for each in entries] == [
            b"id: %b\n%b" % (event_id.encode(), each.body)
            for event_id, each in zip(ids, items, strict=True)
        ]
        times = [each.time for each in entries]
        assert times == sorted(times)
        assert all(before - 1 < time < broker.now() + 1 for time in times)


async def test_c2_the_order_of_a_stream_is_the_same_for_all_and_that_of_each_task(
    broker: Broker,
) -> None:
    followers = [Notes(), Notes()]
    for notes in followers:
        await broker.follow(stream(), LIMITS, notes)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(publish, broker, stream(), *[number * 100 + n for n in range(10)])
    _, read = await broker.read(stream(), LIMITS, *ALL)
    assert [entry.offset for entry in read] == list(range(1, 201))
    for notes in followers:
        await notes.have(200)
        assert [entry.id for entry in notes.entries] == [entry.id for entry in read]
    for number in range(20):
        own = [each for each in followers[0].numbers if each // 100 == number]
        assert own == sorted(own)


async def test_each_key_is_a_stream_of_its_own_whatever_its_name(broker: Broker) -> None:
    names: list[tuple[str, str | None]] = [
        *(("a", None), ("a", ""), ("a", "b"), ("a:1", "b"), ("a", "1:b"), ("a:1:b", None)),
        *(("a", "{b}"), ("{a}", "b"), ("a", "\u00fc"), ("a", "\0"), ("a", "*")),
    ]

    streams = [HistoryKey(*each) for each in names]
    followers = {each: Notes() for each in streams}
    for each in streams:
        assert (await broker.follow(each, LIMITS, followers[each])).offset == 0
    for number, each in enumerate(streams):
        await publish(broker, each, number)
    epochs = set()
    for number, each in enumerate(streams):
        await followers[each].have(1)
        assert followers[each].numbers == [number]
        _, (entry,) = await broker.read(each, LIMITS, *ALL)
        assert (entry.offset, number_of(entry)) == (1, number)
        epochs.add(entry.position.epoch)
    assert len(epochs) == len(streams)


# Following


async def test_following_begins_at_the_newest_event(broker: Broker) -> None:
    early, late, later = Notes(), Notes(), Notes()
    assert (await broker.follow(stream(), LIMITS, early)).offset == 0
    ids = await publish(broker, stream(), 1, 2)
    await early.have(2)
    assert str(await broker.follow(stream(), LIMITS, late)) == ids[-1]
    ids += await publish(broker, stream(), 3)
    await late.have(1)
    assert str(await broker.follow(stream(), LIMITS, later)) == ids[-1]
    await publish(broker, stream(), 4)
    await later.have(1)
    await late.have(2)
    await early.have(4)
    assert (early.numbers, late.numbers, later.numbers) == ([1, 2, 3, 4], [3, 4], [4])


async def test_c5_nothing_is_missed_while_following_begins(broker: Broker) -> None:
    stopped = False

    async def go_on_publishing() -> None:
        for number in itertools.count():
            await broker.publish(stream(), LIMITS, item(number))
            await anyio.lowlevel.checkpoint()
            if stopped:
                return

    async def begin() -> None:
        notes = Notes()
        position = await broker.follow(stream(), LIMITS, notes)
        await notes.have(20)
        offsets = notes.offsets
        first = position.offset + 1
        assert offsets == list(range(first, first + len(offsets)))
        broker.unfollow(stream(), notes)

    async with anyio.create_task_group() as publishing:
        publishing.start_soon(go_on_publishing)
        for _ in range(5):
            await begin()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(begin)
        stopped = True


async def test_who_unfollows_is_told_nothing_more(broker: Broker) -> None:
    gone, staying = Notes(), Notes()
    broker.unfollow(stream(), gone)
    await broker.follow(stream(), LIMITS, gone)
    await broker.follow(stream(), LIMITS, staying)
    await publish(broker, stream(), 1)
    await gone.have(1)
    broker.unfollow(stream(), gone)
    broker.unfollow(stream(), gone)
    await anyio.lowlevel.checkpoint()
    await publish(broker, stream(), 2)
    await staying.have(2)
    assert (gone.numbers, staying.numbers) == ([1], [1, 2])
    broker.unfollow(stream(), staying)
    again = Notes()
    assert (await broker.follow(stream(), LIMITS, again)).offset == 2
    await publish(broker, stream(), 3)
    await again.have(1)
    assert (gone.numbers, staying.numbers, again.numbers) == ([1], [1, 2], [3])


async def test_following_that_is_cancelled_leaves_nothing_behind(broker: Broker) -> None:
    for _ in range(5):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await broker.follow(stream(), LIMITS, Notes())
            await anyio.lowlevel.checkpoint()
    notes = Notes()
    await broker.follow(stream(), LIMITS, notes)
    await publish(broker, stream(), 1)
    await notes.have(1)
    assert notes.numbers == [1]


async def test_c7_a_stream_has_its_epoch_from_when_it_is_first_followed(broker: Broker) -> None:
    one, other = Notes(), Notes()
    begun = await broker.follow(stream(), LIMITS, one)
    assert len(begun.epoch) == 16
    assert (begun.offset, begun.tag) == (0, 0)
    assert await broker.follow(stream(), LIMITS, other) == begun
    broker.unfollow(stream(), one)
    broker.unfollow(stream(), other)
    await anyio.lowlevel.checkpoint()
    # A follower that was there for a moment can come back to its position.
    assert await broker.follow(stream(), LIMITS, one) == begun
    (published,) = await publish(broker, stream(), 1)
    position = parse_id(published)
    assert position is not None
    assert position[:2] == (begun.epoch, 1)
    await one.have(1)
    assert one.numbers == [1]
    floor, _ = await broker.read(stream(), LIMITS, *ALL)
    assert floor == begun


async def test_the_position_is_that_of_the_newest_event(broker: Broker) -> None:
    begun = await broker.position(stream(), LIMITS)
    assert (begun.offset, begun.tag) == (0, 0)
    notes = Notes()
    assert await broker.follow(stream(), LIMITS, notes) == begun
    ids = await publish(broker, stream(), 1, 2)
    await notes.have(2)
    assert str(await broker.position(stream(), LIMITS)) == ids[-1]
    assert notes.numbers == [1, 2]


async def test_followers_have_what_was_published_before_they_catch_up(broker: Broker) -> None:
    notes = Notes()
    await broker.catch_up(stream())  # nobody follows
    await broker.follow(stream(), LIMITS, notes)
    await broker.catch_up(stream())
    for number in range(20):
        await publish(broker, stream(), number)
        await broker.catch_up(stream())
        assert notes.numbers == list(range(number + 1))


# Reading


async def test_reading_a_stream_that_nobody_published_to(broker: Broker) -> None:
    floor, entries = await broker.read(stream(), LIMITS, *ALL)
    assert (floor.offset, entries) == (0, [])


@pytest.mark.parametrize(
    ("first", "before", "expected"),
    [
        (1, 11, range(1, 11)),
        (1, 100, range(1, 11)),
        (4, 8, range(4, 8)),
        (10, 11, range(10, 11)),
        (0, 3, range(1, 3)),
    ],
)
async def test_reading_a_stretch(broker: Broker, first: int, before: int, expected: range) -> None:
    ids = await publish(broker, stream(), *range(1, 11))
    floor, read = await broker.read(stream(), LIMITS, first, before)
    assert [number_of(entry) for entry in read] == list(expected)
    assert [entry.id for entry in read] == ids[expected.start - 1 : expected.stop - 1]
    epoch = read[0].position.epoch
    assert (floor.epoch, floor.offset) == (epoch, expected.start - 1)
    if floor.offset:
        assert str(floor) == ids[floor.offset - 1]


async def test_reading_more_than_a_page(broker: Broker) -> None:
    limits = LIMITS._replace(history=10_000)

    for start in range(0, 2_500, 500):
        async with anyio.create_task_group() as tasks:
            for number in range(start, start + 500):
                tasks.start_soon(broker.publish, stream(), limits, item(number))
    floor, read = await broker.read(stream(), limits, *ALL)
    assert floor.offset == 0
    assert [entry.offset for entry in read] == list(range(1, 2_501))
    _, read = await broker.read(stream(), limits, 900, 2_200)
    assert [entry.offset for entry in read] == list(range(900, 2_200))


# Limits


@pytest.mark.parametrize("history", [0, 1, 7])
async def test_c11_a_history_has_so_many_events(broker: Broker, history: int) -> None:
    limits = LIMITS._replace(history=history)

    ids = await publish(broker, stream(), *range(1, 21), limits=limits)
    floor, read = await broker.read(stream(), limits, 1, 21)
    assert [entry.offset for entry in read] == list(range(21 - history, 21))
    assert floor.offset == 20 - history
    assert not floor.tag or str(floor) == ids[floor.offset - 1]
    # Without a history, new followers still know where they begin.
    assert str(await broker.follow(stream(), limits, Notes())) == ids[-1]


async def test_c11_a_history_has_so_many_bytes(broker: Broker) -> None:
    size = len(Entry(Position("0" * 16, 1, 2**31), b"data: 123\n\n", 0, False, None).frame)
    limits = LIMITS._replace(history_bytes=10 * size)

    await publish(broker, stream(), *range(100, 130), limits=limits)
    floor, read = await broker.read(stream(), limits, *ALL)
    # Tags have nine digits and some ten, and offsets one or two.
    total = sum(len(entry.frame) for entry in read)
    assert total <= 10 * size < total + size + 3
    assert read[-1].offset == 30
    assert [entry.offset for entry in read] == list(range(floor.offset + 1, 31))


async def test_c11_a_history_has_events_of_so_many_seconds(broker: Broker) -> None:
    limits = LIMITS._replace(history_ttl=0.5)

    await publish(broker, stream(), 1, limits=limits)
    for number in itertools.count(2):
        await publish(broker, stream(), number, limits=limits)
        now = broker.now()
        floor, read = await broker.read(stream(), limits, *ALL)
        assert [entry.offset for entry in read] == list(range(floor.offset + 1, number + 1))
        assert all(entry.time > now - 0.5 - 0.05 for entry in read)
        if floor.offset > 3:
            break
        await anyio.sleep(0.05)


async def test_c11_a_key_that_nobody_uses_is_forgotten(broker: Broker) -> None:
    limits = LIMITS._replace(history_ttl=0.2)

    (first,) = await publish(broker, stream(), 1, limits=limits)
    while (await broker.read(stream(), limits, *ALL))[1]:
        await anyio.sleep(0.3)
    (second,) = await publish(broker, stream(), 2, limits=limits)
    old, new = parse_id(first), parse_id(second)
    assert old is not None
    assert new is not None
    assert (old.offset, new.offset) == (1, 1)
    assert old.epoch != new.epoch


async def test_c11_a_key_that_somebody_follows_is_not_forgotten(broker: Broker) -> None:
    limits = LIMITS._replace(history_ttl=0.3)

    notes = Notes()
    (first,) = await publish(broker, stream(), 1, limits=limits)
    head = await broker.follow(stream(), limits, notes)
    assert str(head) == first
    # Another key with the same limits goes.
    other = stream("other")
    await publish(broker, other, 1, limits=limits)
    while (await broker.read(other, limits, *ALL))[1]:
        await anyio.sleep(0.4)
    (second,) = await publish(broker, stream(), 2, limits=limits)
    new = parse_id(second)
    assert new is not None
    assert (new.epoch, new.offset) == (head.epoch, 2)
    await notes.have(1)
    assert notes.numbers == [2]


# Threads and event loops


async def test_publishing_soon_from_any_thread(broker: Broker) -> None:
    notes = Notes()
    await broker.follow(stream(), LIMITS, notes)
    ids: list[str] = []

    def work(number: int) -> None:
        futures = [broker.publish_soon(stream(), LIMITS, item(number * 100 + n)) for n in range(20)]
        ids.extend(future.result(30) for future in futures)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    await notes.have(80)
    while any(thread.is_alive() for thread in threads):
        await anyio.sleep(0.002)
    assert sorted(ids) == sorted(entry.id for entry in notes.entries)
    for number in range(4):
        own = [each for each in notes.numbers if each // 100 == number]
        assert own == [number * 100 + n for n in range(20)]


async def test_publishing_soon_on_the_event_loop(broker: Broker) -> None:
    futures = [broker.publish_soon(stream(), LIMITS, item(number)) for number in range(50)]
    await until(lambda: all(future.done() for future in futures))
    _, read = await broker.read(stream(), LIMITS, *ALL)
    assert [entry.id for entry in read] == [future.result() for future in futures]
    assert [number_of(entry) for entry in read] == list(range(50))


async def test_another_event_loop_publishes_reads_and_follows(broker: Broker) -> None:
    here, there = Notes(), Notes()
    await broker.follow(stream(), LIMITS, here)
    results: list[Any] = []

    async def work() -> None:
        assert (await broker.follow(stream(), LIMITS, there)).offset == 0
        ids = await publish(broker, stream(), *range(10))
        await there.have(10)
        broker.unfollow(stream(), there)
        _, read = await broker.read(stream(), LIMITS, *ALL)
        results.extend([ids, [entry.id for entry in read]])

    thread = threading.Thread(target=anyio.run, args=(work,))
    thread.start()
    while thread.is_alive():
        await anyio.sleep(0.002)
    assert results[0] == results[1] == [entry.id for entry in there.entries]
    await here.have(10)
    await publish(broker, stream(), 10)
    await here.have(11)
    assert (here.numbers, there.numbers) == (list(range(11)), list(range(10)))


async def test_a_cancelled_publish_harms_no_other(broker: Broker) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(20):

            async def publish_one(number: int = number) -> None:
                with anyio.CancelScope() as scope:
                    if number % 2:
                        scope.cancel()
                    await broker.publish(stream(), LIMITS, item(number))

            tasks.start_soon(publish_one)
    await publish(broker, stream(), 100)
    _, read = await broker.read(stream(), LIMITS, *ALL)
    numbers = [number_of(entry) for entry in read]
    assert len(set(numbers)) == len(numbers)
    assert {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 100} <= set(numbers)
    assert [entry.offset for entry in read] == list(range(1, len(read) + 1))


# The end


async def test_c17_what_was_accepted_before_the_end_is_published(broker: Broker) -> None:
    futures = [broker.publish_soon(stream(), LIMITS, item(number)) for number in range(10)]
    await broker.aclose()
    assert len({future.result(0) for future in futures}) == 10


async def test_a_closed_broker_refuses_until_it_is_opened(broker: Broker) -> None:
    await publish(broker, stream(), 1)
    await broker.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await broker.publish(stream(), LIMITS, item(2))
    with pytest.raises(RuntimeError, match="closed"):
        await broker.follow(stream(), LIMITS, Notes())
    await broker.aclose()
    broker.open()
    notes = Notes()
    await broker.follow(stream(), LIMITS, notes)
    await publish(broker, stream(), 3)
    await notes.have(1)
    assert notes.numbers == [3]
