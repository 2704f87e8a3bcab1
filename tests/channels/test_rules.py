"""C1 to C8: ids and order, replay without a hole, and what is said where that cannot be."""

from __future__ import annotations

import random
import re
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, ValidationError, field_serializer

from channel_clients import Client, MakeChannels, connected, offset_of
from sserpent import Named, ServerSentEvent
from sserpent.channels import Channels
from sserpent.channels.history.encoding import MAX_EVENT_SIZE

pytestmark = pytest.mark.anyio

ID = re.compile(r"[0-9a-f]{16}-[1-9][0-9]*-[1-9][0-9]*")


# C1


async def test_c1_an_id_is_epoch_offset_and_tag(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        rooms = channels.channel("rooms", keyed=True)
        a = [await rooms.publish(n, key="a") for n in range(50)]
        b = [await rooms.publish(n, key="b") for n in range(50)]
    assert all(ID.fullmatch(each) for each in a + b)
    assert [offset_of(each) for each in a] == list(range(1, 51))
    assert [offset_of(each) for each in b] == list(range(1, 51))
    assert len({each.split("-")[0] for each in a}) == 1
    assert len({each.split("-")[0] for each in a + b}) == 2
    assert len({each.split("-")[2] for each in a + b}) == 100


async def test_c1_the_id_that_publish_returns_is_the_one_that_clients_see(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        async with connected(news.subscribe()) as client:
            ids = [await news.publish(n) for n in range(3)]
            await client.has(0, 1, 2)
            assert [each.id for each in client.seen] == ids


# C2


async def test_c2_all_see_one_order_and_each_publisher_finds_its_own_in_it(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news", overflow="gap")

        async def publish(name: str) -> None:
            for n in range(100):
                await news.publish([name, n])
                if n % 7 == 0:
                    await anyio.lowlevel.checkpoint()

        async with (
            connected(news.subscribe()) as one,
            connected(news.subscribe()) as two,
        ):
            async with anyio.create_task_group() as tasks:
                for name in "abc":
                    tasks.start_soon(publish, name)
            for client in (one, two):
                await client.until(lambda client=client: len(client.data) == 300)
            assert one.seen == two.seen
            assert [offset_of(each.id) for each in one.seen] == list(range(1, 301))
            for name in "abc":
                assert [n for each, n in one.data if each == name] == list(range(100))


# C3


async def test_c3_no_event_comes_twice_whatever_stalls_and_reconnects(
    make_channels: MakeChannels,
) -> None:
    randomly = random.Random(3)
    async with make_channels() as channels:
        news = channels.channel("news")
        last_id, published = None, 0
        for _ in range(20):
            first = published
            async with connected(news.subscribe(after=last_id, start="earliest")) as client:
                for _ in range(randomly.randrange(1, 20)):
                    if randomly.random() < 0.3:
                        client.unstall() if client.stalled else client.stall()
                    await news.publish(published)
                    published += 1
                client.unstall()
                await client.has(*range(first, published))
                last_id = client.last_id


# C4


async def test_c4_a_value_is_validated_and_framed_once_for_all(make_channels: MakeChannels) -> None:
    written: list[int] = []

    class Message(BaseModel):
        number: int

        @field_serializer("number")
        def note(self, number: int) -> int:
            written.append(number)
            return number

    async with make_channels() as channels:
        news = channels.channel("news", Message)
        async with (
            connected(news.subscribe()) as one,
            connected(news.subscribe()) as two,
        ):
            await news.publish(Message(number=1))
            for client in (one, two):
                await client.has({"number": 1})
        async with connected(news.subscribe(start="earliest")) as late:
            await late.has({"number": 1})
    assert written == [1]


class Message(BaseModel):
    number: int


NOT_TO_BE_PUBLISHED = [
    (Message, {"number": "a"}, ValidationError),
    (Message, "text", ValidationError),
    (Message, ServerSentEvent(data={"number": None}), ValidationError),
    (None, object(), Exception),
    (None, ServerSentEvent(data=1, id="mine"), ValueError),
    (None, {1: {2: float}}, Exception),
]


@pytest.mark.parametrize(("item_type", "item", "error"), NOT_TO_BE_PUBLISHED)
async def test_c4_a_bad_item_raises_and_nothing_is_sent(
    make_channels: MakeChannels, item_type: Any, item: Any, error: type[Exception]
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news", item_type)
        async with connected(news.subscribe()) as client:
            before = await news.publish({"number": 1})
            with pytest.raises(error):
                await news.publish(item)
            with pytest.raises(error):
                news.publish_soon(item)
            after = await news.publish({"number": 2})
            await client.has({"number": 1}, {"number": 2})
            assert offset_of(after) == offset_of(before) + 1


async def test_c4_the_largest_event_that_is_published_can_be_read(core: Any) -> None:
    news = Channels().channel("news", history_bytes=2 * MAX_EVENT_SIZE)
    # With a blank line, and the names of its fields.
    data = "x" * (MAX_EVENT_SIZE - len("event: large\n") - len('data: ""\n\n'))
    async with news.listen(filter=lambda event: event.event == "large") as events:
        event_id = await news.publish(data, event="large")
        assert (await anext(events)).data == data
    client = Client()
    async with client.open(news.subscribe(start="earliest")):
        await client.until(lambda: client.body.endswith(b"\n\n"))
    [event] = core.EventStreamParser().feed(client.body)
    assert event.last_event_id == event_id
    assert len(event.data) == len(data) + 2
    with pytest.raises(ValueError, match="at most 16777216 bytes, not 16777217"):
        await news.publish(data + "x", event="large")


class Old(BaseModel):
    text: str


class New(BaseModel):
    text: str
    author: str


@pytest.mark.parametrize("declared", [False, True])
async def test_c4_an_event_of_an_older_model_is_a_text_for_listeners_and_hidden_by_filters(
    caplog: pytest.LogCaptureFixture, declared: bool
) -> None:
    """As in a rolling deployment: two processes, one history."""
    old, new = Channels(), Channels()
    new._broker = new._hubs.broker = old._broker
    types: tuple[Any, Any] = (Old, New)
    if declared:
        types = Annotated[Old, Named("said")], Annotated[New, Named("said")]
    before, after = old.channel("news", types[0]), new.channel("news", types[1])
    said = {"event": "said"} if declared else {}

    async def publish() -> None:
        await before.publish(Old(text="a"))
        await after.publish(New(text="b", author="c"))
        await before.publish(ServerSentEvent(data=Old(text="d"), **said))
        await after.publish(New(text="e", author="f"))

    await publish()
    b, e = New(text="b", author="c"), New(text="e", author="f")
    async with (
        after.listen(start="earliest") as events,
        connected(after.subscribe(start="earliest", filter=lambda event: True)) as client,
    ):
        await publish()
        seen = [await anext(events) for _ in range(8)]
        assert [each.data for each in seen] == [None, b, None, e] * 2
        assert [each.raw_data for each in seen] == [
            '{"text":"a"}', None, '{"text":"d"}', None
        ] * 2  # fmt: skip
        assert {each.event for each in seen} == {"said" if declared else None}
        await client.has(*[b.model_dump(), e.model_dump()] * 2)
        assert client.said == []
    async with connected(after.subscribe(start="earliest")) as everything:
        await everything.until(lambda: len(everything.data) == 8)
    [message] = [each.getMessage() for each in caplog.records]
    assert message.startswith("An event of channel 'news' is not of its type")


# C5


async def test_c5_replay_and_live_have_no_hole_and_no_repeat(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        ids = [await news.publish(n) for n in range(100)]
        stop = False

        async def publish() -> None:
            published = 100
            while not stop:
                await news.publish(published)
                published += 1
                await anyio.lowlevel.checkpoint()

        async def read(after: int) -> None:
            async with connected(news.subscribe(after=ids[after])) as client:
                await client.until(lambda: len(client.data) > 120)
                assert client.data == list(range(after + 1, after + 1 + len(client.data)))

        async with anyio.create_task_group() as publishing:
            publishing.start_soon(publish)
            async with anyio.create_task_group() as reading:
                for after in range(0, 100, 7):
                    reading.start_soon(read, after)
                    await anyio.lowlevel.checkpoint()
            stop = True


STARTS = [
    ("live", []),
    ("earliest", [0, 1, 2, 3, 4]),
    (0, []),
    (1, [4]),
    (3, [2, 3, 4]),
    (5, [0, 1, 2, 3, 4]),
    (1_000, [0, 1, 2, 3, 4]),
]


@pytest.mark.parametrize(("start", "replayed"), STARTS)
async def test_c5_somebody_without_an_id_begins_as_start_says(
    make_channels: MakeChannels, start: Any, replayed: list[int]
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        for n in range(5):
            await news.publish(n)
        async with connected(news.subscribe(start=start)) as client:
            await news.publish(5)
            await client.has(*replayed, 5)
            assert client.said == []


async def test_c5_what_is_published_once_the_headers_are_there_arrives(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        for n in range(20):
            # `connected` begins in the very turn in which the headers are seen.
            async with connected(news.subscribe()) as client:
                await news.publish(n)
                await client.has(n)


# C6


@pytest.mark.parametrize("after", [0, 7, 18, 19])
@pytest.mark.parametrize("history", [0, 1, 5])
async def test_c6_what_has_been_trimmed_is_a_gap_with_its_exact_number(
    make_channels: MakeChannels, history: int, after: int
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news", history=history)
        ids = [await news.publish(n) for n in range(20)]
        missed = max(19 - after - history, 0)
        async with connected(news.subscribe(after=ids[after])) as client:
            await news.publish("live")
            await client.has(*range(after + 1 + missed, 20), "live")
            if not missed:
                assert client.said == []
                return
            [gap] = client.said
            to = ids[after + missed]
            assert gap.data == {
                "reason": "trimmed",
                "missed": missed,
                "from": ids[after],
                "to": to,
            }
            assert (gap.type, gap.id) == ("gap", to)


async def test_c6_a_gap_is_not_repeated_to_somebody_who_comes_back_with_its_id(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news", history=3)
        ids = [await news.publish(n) for n in range(10)]
        async with connected(news.subscribe(after=ids[0])) as client:
            await client.until(lambda: client.said)
        gap = client.said[0]
        assert gap.data == {"reason": "trimmed", "missed": 6, "from": ids[0], "to": gap.id}
        async with connected(news.subscribe(after=gap.id)) as client:
            await client.has(7, 8, 9)
            assert client.said == []


# C7


def ids_of_no_use(newest: str) -> dict[str, tuple[str, str]]:
    epoch, offset, tag = newest.split("-")
    other = f"{int(epoch, 16) ^ 1:016x}"
    return {
        "garbage": ("garbage", "unknown"),
        "blank": (" ", "unknown"),
        "too long": (newest + "0" * 60, "unknown"),
        "far too long": ("1" * 100_000, "unknown"),
        "no tag": (f"{epoch}-{offset}", "unknown"),
        "negative": (f"{epoch}--1-{tag}", "unknown"),
        "leading zero": (f"{epoch}-0{offset}-{tag}", "unknown"),
        "capitals": (f"ABCDEF-{offset}-{tag}", "unknown"),
        "not ASCII": (f"{epoch}-\u0661-{tag}", "unknown"),
        "a line more": (f"{newest}\n", "unknown"),
        "of several channels": (f"12345678.{newest}", "unknown"),
        "another epoch": (f"{other}-{offset}-{tag}", "epoch"),
        "the epoch of nothing": (f"0-{offset}-{tag}", "epoch"),
        "another tag": (f"{epoch}-{offset}-{int(tag) ^ 1}", "diverged"),
        "the future": (f"{epoch}-{int(offset) + 1}-{tag}", "ahead"),
        "the far future": (f"{epoch}-9999999999999999999-9999999999", "ahead"),
    }


@pytest.mark.parametrize("case", ids_of_no_use("0123456789abcdef-1-1"))
@pytest.mark.parametrize(
    ("start", "replayed"), [("live", []), ("earliest", [0, 1, 2]), (2, [1, 2])]
)
async def test_c7_an_id_of_no_use_is_a_reset_and_then_as_start_says(
    make_channels: MakeChannels, case: str, start: Any, replayed: list[int]
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        ids = [await news.publish(n) for n in range(3)]
        after, reason = ids_of_no_use(ids[-1])[case]
        async with connected(news.subscribe(after=after, start=start)) as client:
            assert client.status == 200
            await news.publish(3)
            await client.has(*replayed, 3)
            first = client.seen[0]
            assert (first.type, first.data) == ("reset", {"reason": reason})
            assert offset_of(first.id) == 3 - len(replayed)
            assert client.said == [first]
        async with connected(news.subscribe(after=first.id)) as client:
            await client.has(*replayed, 3)
            assert client.said == []


def first_fields(client: Client) -> list[str]:
    """The names of the fields of the first block, whether or not it is an event."""
    fields = client.stream.fields
    return [each[0] for each in fields[: fields.index(None)] if each is not None]


@pytest.mark.parametrize(("start", "published"), [("live", 0), ("live", 2), (1, 0)])
async def test_c7_a_stream_without_an_id_or_an_event_says_first_where_it_stands(
    make_channels: MakeChannels, published: int, start: Any
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        for n in range(published):
            await news.publish(n)
        async with connected(news.subscribe(start=start)) as client:
            await client.until(lambda: client.bodies)
            assert first_fields(client) == ["id"]
            position = client.stream.fields[0][1]  # type: ignore[index]
            epoch, offset, _ = position.split("-")
            assert len(epoch) == 16
            assert int(offset) == published
        # Cut off at that moment, it has missed nothing.
        await news.publish("meanwhile")
        async with connected(news.subscribe(after=position)) as client:
            await client.has("meanwhile")
            assert client.said == []


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("start", ["earliest", 1, 5])
async def test_p13_no_position_is_sent_before_an_event_that_has_one(
    make_channels: MakeChannels, start: Any, several: bool
) -> None:
    async with make_channels() as channels:
        news, rare = channels.channel("news"), channels.channel("rare")
        await news.publish(0)
        subscription = (
            channels.subscribe(news.on(), rare.on(), start=start)
            if several
            else news.subscribe(start=start)
        )
        async with connected(subscription) as client:
            await client.has(0)
            assert first_fields(client) == ["id", "data"]
            assert client.stream.fields.count(None) == 1
        await news.publish(1)
        again = (
            channels.subscribe(news.on(), rare.on(), after=client.last_id)
            if several
            else news.subscribe(after=client.last_id)
        )
        async with connected(again) as client:
            await client.has(1)
            assert client.said == []


async def test_p13_with_start_earliest_there_is_no_block_without_data(
    make_channels: MakeChannels,
) -> None:
    """A client without an id gets all that is kept when it comes back, and misses nothing."""

    async with make_channels() as channels:
        news = channels.channel("news")
        async with connected(news.subscribe(start="earliest")) as client:
            assert client.body == b""
            await news.publish(0)
            await client.has(0)
            assert first_fields(client) == ["id", "data"]
        async with connected(news.subscribe(start="earliest")) as client:
            await client.has(0)


async def test_p13_a_client_that_is_too_slow_for_its_first_event_is_told_where_it_stands(
    make_channels: MakeChannels,
) -> None:
    """Without an id it would begin with what is kept by then, and never know of the others."""

    async with make_channels() as channels:
        news = channels.channel("news", history_bytes=700_000, overflow="disconnect")
        async with connected(news.subscribe(start="earliest")) as client:
            await news.publish_many(["x" * 600_000] * 3)
            await client.until(lambda: client.complete)
            assert client.seen == []
        async with connected(news.subscribe(after=client.last_id)) as client:
            await client.has("x" * 600_000)
            assert [each.data["missed"] for each in client.said] == [2]


async def test_p13_a_client_whose_first_events_are_hidden_is_told_where_it_stands(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        newest = [await news.publish(n) for n in (1, 3)][-1]
        subscription = news.subscribe(start=2, filter=lambda event: event.data % 2 == 0)
        async with connected(subscription) as client:
            await client.until(lambda: client.bodies)
            assert first_fields(client) == ["id"]
            assert client.last_id == newest


async def test_c7_somebody_with_a_good_id_is_told_no_position(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        first = await news.publish(0)
        async with connected(news.subscribe(after=first)) as client:
            await news.publish(1)
            await client.has(1)
            assert client.stream.fields.count(None) == 1


# C8


async def test_c8_another_event_with_the_offset_of_ones_own_is_noticed(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        ids = [await news.publish(n) for n in range(5)]
        epoch, offset, tag = ids[2].split("-")
        for after, said in [(ids[2], []), (f"{epoch}-{offset}-{int(tag) ^ 1}", ["diverged"])]:
            async with connected(news.subscribe(after=after, start="earliest")) as client:
                await client.until(lambda client=client: 4 in client.data)
                assert [each.data["reason"] for each in client.said] == said


def test_channels_without_an_event_loop_accept_events() -> None:
    news = Channels().channel("news")
    ids = [news.publish_soon(n).result() for n in range(3)]
    assert [offset_of(each) for each in ids] == [1, 2, 3]
