"""C11, C14 to C16, C18 and C19: what is bounded, what is not trusted, and several channels in one
stream."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel
import pytest

from channel_clients import Client, MakeChannels, connected, offset_of
from sserpent import ServerSentEvent
from sserpent.channels import Channels
from sserpent.channels.history import memory

pytestmark = pytest.mark.anyio


class Clock:
    now = 1_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the histories, which the test moves."""
    clock = Clock()
    monkeypatch.setattr(memory, "monotonic", lambda: clock.now)
    return clock


async def history_of(channel: Any) -> list[Any]:
    async with connected(channel.subscribe(start="earliest")) as client:
        await channel.publish("end")
        await client.until(lambda: "end" in client.data)
        return client.data[:-1]


# C11


@pytest.mark.parametrize("history", [0, 1, 10, 100])
async def test_c11_history_is_how_many_events_are_kept(
    make_channels: MakeChannels, history: int
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news", history=history)
        for n in range(30):
            await news.publish(n)
        assert await history_of(news) == list(range(30))[30 - min(history, 30) :]


async def test_c11_history_bytes_is_how_many_bytes_are_kept(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        news = channels.channel("news", history_bytes=10_000)
        for n in range(30):
            await news.publish([n, "x" * 900])
        kept = [n for n, _ in await history_of(news)]
        assert kept == list(range(30))[30 - len(kept) :]
        assert 9 <= len(kept) <= 10


async def test_c11_an_event_bigger_than_history_bytes_arrives_and_is_a_gap_for_who_comes_back() -> (
    None
):
    news = Channels().channel("news", history_bytes=1_000)
    async with connected(news.subscribe()) as client:
        first = await news.publish("a")
        await client.has("a")
        await news.publish("x" * 5_000)
        await client.has("a", "x" * 5_000)
    async with connected(news.subscribe(after=first)) as back:
        await news.publish("b")
        await back.has("b")
        assert [each.data["missed"] for each in back.said] == [1]


async def test_c11_history_ttl_is_for_how_long_an_event_is_kept(clock: Clock) -> None:
    news = Channels().channel("news", history_ttl=60)
    ids = []
    for n in range(10):
        ids.append(await news.publish(n))
        clock.now += 10
    assert await history_of(news) == [4, 5, 6, 7, 8, 9]
    async with connected(news.subscribe(after=ids[0])) as client:
        await client.until(lambda: "end" in client.data)
        assert [each.data["missed"] for each in client.said] == [3]


async def test_c11_a_key_that_nobody_uses_is_forgotten_and_its_ids_are_of_another_epoch(
    clock: Clock,
) -> None:
    rooms = Channels().channel("rooms", keyed=True, history_ttl=60)
    old = await rooms.publish("old", key=1)
    clock.now += 61
    await rooms.publish("elsewhere", key=2)
    await rooms.publish("new", key=1)
    async with connected(rooms.subscribe(key=1, after=old, start="earliest")) as client:
        await client.has("new")
        assert [each.data["reason"] for each in client.said] == ["epoch"]


async def test_c11_a_history_that_nobody_uses_expires_where_it_is_looked_at(clock: Clock) -> None:
    """Not when a sweeper comes, whose pace another history has set."""

    channels = Channels()
    await channels.channel("slow", history_ttl=3_600).publish(1)
    rooms = channels.channel("rooms", keyed=True, history_ttl=60)
    old = {key: await rooms.publish("old", key=key) for key in range(3)}
    clock.now += 59
    async with connected(rooms.subscribe(key=0, after=old[0])) as client:
        assert client.said == []
    clock.now += 1
    for key, reasons in ((1, ["epoch"]), (0, [])):
        async with connected(rooms.subscribe(key=key, after=old[key])) as client:
            await rooms.publish("new", key=key)
            await client.has("new")
            assert [each.data["reason"] for each in client.said] == reasons
    async with connected(rooms.subscribe(key=2, start="earliest")) as client:
        await rooms.publish("new", key=2)
        await client.has("new")
    for _ in range(3):  # what is begun again and again is one history
        clock.now += 61
        await rooms.publish("again", key=2)
    broker: Any = channels._broker
    assert len(broker._expiries) == len(broker.histories)


async def test_c11_an_event_that_has_expired_is_a_gap(clock: Clock) -> None:
    news = Channels().channel("news", history_ttl=60)
    first = await news.publish(1)
    for n in (2, 3):
        await news.publish(n)
        clock.now += 59
    async with connected(news.subscribe(after=first)) as client:
        await client.has(3)
        assert [each.data["missed"] for each in client.said] == [1]


async def test_c11_a_key_that_somebody_reads_keeps_its_epoch_though_it_is_quiet(
    clock: Clock,
) -> None:
    news = Channels().channel("news", history_ttl=60)
    async with connected(news.subscribe()) as client:
        first = await news.publish(1)
        clock.now += 1_000
        second = await news.publish(2)
        await client.has(1, 2)
        assert offset_of(second) == 2
        assert first.split("-")[0] == second.split("-")[0]
    async with connected(news.subscribe(after=first)) as back:
        await back.has(2)
        assert back.said == []


def grown(channels: Channels) -> int:
    broker: Any = channels._broker
    return len(broker.histories)


def from_the_loop(channel: Any) -> None:
    for key in range(10_000):
        channel.publish_soon("x" * 100, key=key)


def from_a_thread(channel: Any) -> None:
    thread = threading.Thread(target=from_the_loop, args=[channel])
    thread.start()
    thread.join()


@pytest.mark.parametrize("publish", [from_the_loop, from_a_thread])
async def test_c11_the_memory_of_keys_that_were_used_once_goes_back(publish: Any) -> None:
    """With nobody touching the channel again."""

    async with Channels() as channels:
        rooms = channels.channel("rooms", keyed=True, history_ttl=0.2)
        publish(rooms)
        with anyio.fail_after(20):
            while grown(channels):
                await anyio.sleep(0.01)


async def test_c11_the_memory_of_keys_that_were_only_read_goes_back(clock: Clock) -> None:
    channels = Channels()
    news, rooms = channels.channel("news"), channels.channel("rooms", keyed=True)
    for key in range(100):
        async with connected(rooms.subscribe(key=key)):
            pass
    clock.now += memory.UNUSED_TTL
    await news.publish(1)
    assert grown(channels) == 1
    assert channels._hubs._by_loop == {}


async def test_c11_one_timer_at_a_time_looks_for_keys_that_nobody_uses(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a key is found to have expired before the timer comes, and begins again."""
    timers: list[Callable[[], object]] = []

    def call_every(_: float, function: Callable[[], object]) -> Callable[[], object]:
        timers.append(function)
        return lambda: timers.remove(function)

    monkeypatch.setattr(memory, "call_every", call_every)
    channels = Channels()
    news = channels.channel("news", history_ttl=60)
    for n in range(5):
        await news.publish(n)
        for timer in timers.copy():
            timer()
        assert len(timers) == 1
        clock.now += 61
    timers[0]()
    assert timers == []
    assert grown(channels) == 0


# C14


async def test_c14_who_comes_back_for_the_same_stretch_shares_one_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channels = Channels()
    news = channels.channel("news")
    ids = [await news.publish(n) for n in range(500)]
    reads = 0
    broker: Any = channels._broker
    read = broker.read

    async def counted(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        await anyio.sleep(0.01)
        return await read(*args)

    monkeypatch.setattr(broker, "read", counted)
    clients = [Client() for _ in range(50)]
    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(client.run, news.subscribe(after=ids[99]))
        for client in clients:
            await client.has(*range(100, 500))
        assert reads == 1
        for client in clients:
            client.disconnect()


# C15


async def test_c15_an_id_holds_neither_name_nor_key_nor_owner(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        rooms = channels.channel("secretname", keyed=True)
        several = channels.subscribe(rooms.on("secretkey"), owner="secretowner")
        single = rooms.subscribe(key="secretkey", owner="secretowner")
        for subscription in (several, single):
            async with connected(subscription) as client:
                await rooms.publish(1, key="secretkey")
                await client.has(1)
                assert b"secret" not in client.body


@pytest.mark.parametrize("channels_in_stream", [1, 32])
async def test_c15_an_id_has_at_most_64_bytes_for_each_channel(
    make_channels: MakeChannels, channels_in_stream: int
) -> None:
    async with make_channels() as channels:
        rooms = channels.channel("rooms", keyed=True)
        keys = list(range(channels_in_stream))
        for key in keys:
            await rooms.publish(key, key=key)
        subscription = channels.subscribe(*map(rooms.on, keys), start="earliest")
        async with connected(subscription) as client:
            await client.until(lambda: len(client.data) == len(keys))
            assert len(client.last_id) <= 64 * channels_in_stream
            after = client.last_id
        async with connected(channels.subscribe(*map(rooms.on, keys), after=after)) as back:
            await rooms.publish("new", key=0)
            await back.has("new")
            assert back.said == []


async def test_c15_the_ids_of_several_channels_are_as_little_trusted(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        a, b = channels.channel("a"), channels.channel("b")
        await a.publish("old")
        for after in ("x", "~", "12345678.", "12345678.1-1", "1-1-1", "a" * 10_000, "~" * 100):
            async with connected(channels.subscribe(a.on(), b.on(), after=after)) as client:
                await a.publish(after[:10])
                await client.has(after[:10])
                assert [each.data for each in client.said] == [{"reason": "unknown"}]


async def test_c15_an_id_selects_no_channel(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        rooms = channels.channel("rooms", keyed=True)
        last_id = await rooms.publish("private", key="private")
        await rooms.publish("private too", key="private")
        async with connected(channels.subscribe(rooms.on("private"), start="live")) as client:
            await client.until(lambda: client.last_id)
            several = client.last_id
        async with connected(
            rooms.subscribe(key="public", after=last_id, start="earliest")
        ) as client:
            await rooms.publish("public", key="public")
            await client.has("public")
        async with connected(
            channels.subscribe(rooms.on("public"), after=several, start="earliest")
        ) as client:
            await client.has("public")
            assert client.said == []


# C16


async def test_c16_the_filter_is_asked_for_history_and_live(make_channels: MakeChannels) -> None:
    asked: list[Any] = []

    def even(event: Any) -> bool:
        asked.append((event.data, event.event, event.id))
        return bool(event.data % 2 == 0)

    async with make_channels() as channels:
        news = channels.channel("news")
        ids = [await news.publish(n, event="number") for n in range(6)]
        async with connected(news.subscribe(start="earliest", filter=even)) as client:
            ids += [await news.publish(n, event="number") for n in range(6, 11)]
            await client.has(0, 2, 4, 6, 8, 10)
            assert [each.id for each in client.seen] == ids[::2]
        assert asked == [(n, "number", ids[n]) for n in range(11)]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.virtual_time
async def test_c16_what_is_hidden_at_the_end_moves_the_id_within_ten_seconds(several: bool) -> None:
    channels = Channels()
    news = channels.channel("news")

    def subscription(after: str | None = None) -> Any:
        options: Any = {"after": after, "filter": lambda event: event.data != "hidden"}
        if several:
            return channels.subscribe(news.on(), **options)
        return news.subscribe(**options)

    async with connected(subscription()) as client:
        await news.publish("shown")
        for _ in range(3):
            last = await news.publish("hidden")
        await client.has("shown")
        assert not client.last_id.endswith(last)
        await anyio.sleep(10)
        assert client.last_id.endswith(last)
        blocks = client.stream.fields.count(None)
        await anyio.sleep(60)  # and then no more
        assert client.stream.fields.count(None) == blocks
        assert client.data == ["shown"]
        after = client.last_id
    async with connected(subscription(after)) as back:
        await news.publish("next")
        await back.has("next")


async def test_c16_a_filter_that_raises_ends_the_stream_before_what_it_raised_on(
    make_channels: MakeChannels,
) -> None:
    def shows(event: Any) -> bool:
        if event.data == 2:
            raise LookupError("on purpose")
        return True

    async with make_channels() as channels:
        news = channels.channel("news")
        client = Client()
        caught = []

        async def read() -> None:
            try:
                await client.run(news.subscribe(filter=shows))
            except LookupError as error:
                caught.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await client.until(lambda: client.started)
            ids = [news.publish_soon(n).result() for n in range(5)]
            await client.until(lambda: caught)
        assert client.data == [0, 1]
        assert client.last_id == ids[1]
        assert not client.complete


async def always_false(_: Any) -> bool:
    return False


def later(_: Any) -> Any:
    """A future, or on Trio what can be awaited as one."""
    try:
        return asyncio.get_running_loop().create_future()
    except RuntimeError:
        return always_false(_)


class Undecided:
    def __bool__(self) -> bool:
        raise LookupError("on purpose")


NO_ANSWER: dict[str, Callable[[Any], Any]] = {
    "a coroutine": lambda event: always_false(event),
    "a future": later,
    "a generator": lambda event: (_ for _ in ()),
    "neither true nor false": lambda event: Undecided(),
    "nothing, as without a return": lambda event: None,
    "a text": lambda event: "no",
    "a number": lambda event: 1,
}


@pytest.mark.parametrize("returned", NO_ANSWER)
@pytest.mark.parametrize("replayed", [False, True])
async def test_c16_a_filter_that_returns_what_is_no_answer_shows_nothing_and_fails_the_stream(
    returned: str, replayed: bool
) -> None:
    news = Channels().channel("news")
    subscription = news.subscribe(
        filter=NO_ANSWER[returned], start="earliest" if replayed else "live"
    )
    if replayed:
        await news.publish("secret")
    client = Client()
    caught: list[Exception] = []

    async def read() -> None:
        try:
            await client.run(subscription)
        except TypeError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await client.until(lambda: client.started or caught)
        await news.publish("secret")
        await client.until(lambda: caught)
    assert b"secret" not in client.body
    assert not client.complete
    assert re.match("'filter' of channel 'news' must return a bool, not [A-Za-z_]+", str(caught[0]))
    gc.collect()  # no coroutine was never awaited


async def test_c16_a_listener_is_told_of_a_filter_that_is_async() -> None:
    news = Channels().channel("news")
    async with news.listen(filter=lambda event: always_false(event)) as events:  # type: ignore[arg-type,return-value]
        await news.publish("secret")
        with pytest.raises(TypeError, match="'filter' of channel 'news' must return a bool"):
            await anext(events)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
async def test_c16_a_filter_whose_error_would_end_an_iteration_fails_the_listener(
    kind: type[Exception],
) -> None:
    def may_see(event: ServerSentEvent) -> bool:
        raise kind

    news = Channels().channel("news")
    async with news.listen(filter=may_see) as events:
        await news.publish("secret")
        with pytest.raises(RuntimeError, match=f"'filter' raised {kind.__name__}"):
            await anext(events)


OWNERS: list[tuple[Any, Any, bool]] = [
    ("a", "a", True),
    ("a", "b", False),
    ("1", 1, True),
    (1, "1", True),
    (1, "01", False),
    (1, 1, True),
    (UUID(int=1), UUID(int=1), True),
    (str(UUID(int=1)), UUID(int=1), True),
    ("", "", True),
    (None, "None", False),
    (None, "", False),
]


@pytest.mark.parametrize(("opened", "closed", "ends"), OWNERS)
async def test_c16_disconnect_ends_the_streams_of_its_owner(
    make_channels: MakeChannels, opened: Any, closed: Any, ends: bool
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        async with (
            connected(news.subscribe(owner=opened)) as client,
            connected(news.subscribe(owner="other")) as other,
        ):
            await news.publish(0)
            assert await channels.disconnect(owner=closed) == ends
            assert await channels.disconnect(owner=closed) == 0
            if ends:
                await client.until(lambda: client.complete)
                assert re.search(r"\n: .*\nretry: [1-5]\d{3}\n$", client.body.decode())
            await news.publish(1)
            await other.has(0, 1)
            assert not other.complete
            await client.until(lambda: client.data == ([0] if ends else [0, 1]))
            assert client.complete == ends


@pytest.mark.parametrize(("owner", "ends"), [(1, True), ("2", False), (None, False)])
async def test_c16_disconnect_ends_a_stream_that_has_not_opened_yet(
    make_channels: MakeChannels, owner: Any, ends: bool
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        before, iterated = news.subscribe(owner=owner), news.subscribe(owner=owner)
        assert await channels.disconnect(owner=1) == 0
        async with (
            connected(before) as client,
            connected(news.subscribe(owner=owner)) as later,
        ):
            if ends:
                await client.until(lambda: client.complete)
                assert re.search(r"\n: .*\nretry: [1-5]\d{3}\n$", client.body.decode())
            await news.publish(0)
            await later.has(0)
            await client.until(lambda: client.data == ([] if ends else [0]))
            assert [client.complete, later.complete] == [ends, False]
        if ends:
            # It comes to its end.
            assert not [frame async for frame in iterated.body_iterator if b"data" in frame]


async def test_c16_more_disconnects_than_are_kept_end_a_stream_that_has_not_opened_yet() -> None:
    async with Channels() as channels:
        news = channels.channel("news")
        subscription = news.subscribe(owner="a")
        for owner in range(1_001):
            await channels.disconnect(owner=owner)
        async with connected(subscription) as client:
            await client.until(lambda: client.complete)


# C18


def capped(which: str, make_channels: MakeChannels) -> tuple[Channels, Any]:
    if which == "process":
        channels = make_channels(max_subscribers=2)
    elif which == "owner":
        channels = make_channels(max_subscribers_per_owner=2)
    else:
        channels = make_channels()
    cap = {"max_subscribers": 2} if which == "channel" else {}
    return channels, channels.channel("rooms", keyed=True, **cap)


@pytest.mark.parametrize("which", ["process", "channel", "owner"])
async def test_c18_beyond_a_cap_there_is_503_or_a_clean_end_for_who_comes_back(
    make_channels: MakeChannels, which: str
) -> None:
    channels, rooms = capped(which, make_channels)
    async with channels:
        last_id = await rooms.publish(0, key=0)
        async with (
            connected(rooms.subscribe(key=0, owner=1)) as one,
            connected(rooms.subscribe(key=1, owner=1)),
        ):
            refused, back, head = Client(), Client(), Client(method="HEAD")
            await refused.run(rooms.subscribe(key=2, owner=1))
            assert refused.status == 503
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "text/event-stream" not in refused.headers["content-type"]
            await back.run(rooms.subscribe(key=2, owner=1, after=last_id))
            assert back.status == 200
            assert back.headers["content-type"].startswith("text/event-stream")
            assert not back.messages[-1].get("more_body", False)
            assert back.stream.retry is not None
            assert 5_000 <= back.stream.retry <= 15_000
            assert back.seen == []
            assert back.stream.fields.count(None) == 0
            await head.run(rooms.subscribe(key=2, owner=1))
            assert head.status == 200
            if which == "owner":
                async with connected(rooms.subscribe(key=0, owner="2")) as other:
                    assert other.status == 200
                same = Client()
                await same.run(rooms.subscribe(key=0, owner="1"))
                assert same.status == 503
            one.disconnect()
            await one.until(lambda: not grown_places(channels, 2))
            async with connected(rooms.subscribe(key=2, owner=1)) as again:
                assert again.status == 200
        assert not grown_places(channels, 1)


def grown_places(channels: Channels, count: int) -> bool:
    return any(each >= count for each in channels._hubs.slots._taken.values())


@pytest.mark.parametrize("ending", ["the client leaves", "cancelled", "the filter fails"])
async def test_c18_a_place_is_given_back_however_the_stream_ends(ending: str) -> None:
    channels = Channels(max_subscribers=1, max_subscribers_per_owner=1)
    news = channels.channel("news", max_subscribers=1)
    client = Client()
    subscription = news.subscribe(owner=1, filter=lambda event: 1 / event.data > 0)

    async def read() -> None:
        with suppress(ZeroDivisionError):
            await client.run(subscription)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await client.until(lambda: client.started)
        assert grown_places(channels, 1)
        if ending == "cancelled":
            tasks.cancel_scope.cancel()
        elif ending == "the filter fails":
            await news.publish(0)
        else:
            client.disconnect()
    assert not grown_places(channels, 1)
    assert channels._hubs._by_loop == {}


# C19


async def test_c19_several_channels_in_one_stream_have_one_id(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        news, rooms = channels.channel("news"), channels.channel("rooms", keyed=True)

        def subscribe(after: str | None = None, start: Any = "live") -> Any:
            return channels.subscribe(
                news.on(), rooms.on("a"), rooms.on("b"), after=after, start=start
            )

        async with connected(subscribe()) as client:
            await news.publish("n1")
            await rooms.publish("a1", key="a")
            await rooms.publish("b1", key="b")
            await rooms.publish("c1", key="c")
            await client.until(lambda: len(client.data) == 3)
            assert sorted(client.data) == ["a1", "b1", "n1"]
            ids = [each.id for each in client.seen]
        part = r"[0-9a-f]{8}\.[0-9a-f]+-\d+-\d+"
        assert all(re.fullmatch(f"{part}~{part}~{part}", each) for each in ids)
        await news.publish("n2")
        await rooms.publish("b2", key="b")
        for after, expected in zip(ids, [3 - 1 + 2, 3 - 2 + 2, 2], strict=True):
            async with connected(subscribe(after)) as back:
                await back.until(lambda back=back, n=expected: len(back.data) >= n)
                assert len(back.data) == expected
                assert back.said == []
                assert len(set(back.data)) == expected


async def test_c19_an_absent_channel_begins_as_start_says_and_one_that_is_not_subscribed_is_ignored(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        a, b, c = (channels.channel(name) for name in "abc")
        for channel, name in ((a, "a"), (b, "b"), (c, "c")):
            await channel.publish(f"{name}1")
        async with connected(channels.subscribe(a.on(), b.on())) as client:
            await client.until(lambda: client.last_id)
            after = client.last_id
        for channel, name in ((a, "a"), (b, "b"), (c, "c")):
            await channel.publish(f"{name}2")
        subscription = channels.subscribe(b.on(), c.on(), after=after, start="earliest")
        async with connected(subscription) as client:
            await client.until(lambda: len(client.data) == 3)
            assert sorted(client.data) == ["b2", "c1", "c2"]
            assert client.said == []


async def test_c19_what_is_said_of_one_channel_has_the_id_of_all(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        a, b = channels.channel("a", history=2), channels.channel("b")
        async with connected(channels.subscribe(a.on(), b.on())) as client:
            await client.until(lambda: client.last_id)
            after = client.last_id
        for n in range(5):
            await a.publish(f"a{n}")
            await b.publish(f"b{n}")
        async with connected(channels.subscribe(a.on(), b.on(), after=after)) as client:
            await client.until(lambda: len(client.data) == 7)
            [gap] = client.said
            assert gap.data["missed"] == 3
            assert gap.id.count("~") == 1
        async with connected(channels.subscribe(a.on(), b.on(), after=gap.id)) as client:
            await client.until(lambda: len(client.data) == 7)
            assert client.said == []


@pytest.mark.parametrize("stalls", [False, True])
async def test_c19_32_channels_share_what_a_client_takes(
    make_channels: MakeChannels, stalls: bool
) -> None:
    async with make_channels() as channels:
        rooms = channels.channel("rooms", keyed=True)
        keys = range(32)
        async with connected(channels.subscribe(*map(rooms.on, keys))) as client:
            for n in range(20):
                if stalls:
                    client.stall() if n % 3 else client.unstall()
                for key in keys:
                    await rooms.publish([key, n, "x" * 200], key=key)
                await anyio.lowlevel.checkpoint()
            client.unstall()
            await client.until(lambda: len(client.data) == 32 * 20)
            for key in keys:
                assert [n for each, n, _ in client.data if each == key] == list(range(20))
            assert client.said == []
