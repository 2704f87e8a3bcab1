"""Arguments of channels: each mistake is named where it is made, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import anyio
import fastapi.sse
import pytest

from event_loops import asyncio_only
from sserpent import Named, ServerSentEvent
from sserpent.channels import BrokerError, BrokerUnavailable, Channels, PublishUncertain
from sserpent.channels.history.encoding import MAX_EVENT_SIZE

pytestmark = pytest.mark.anyio


class Odd:
    pass


CHANNELS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_subscribers": 0}, ValueError, "'max_subscribers' must be at least 1"),
    ({"max_subscribers": "a"}, TypeError, "'max_subscribers' must be an integer or None"),
    (
        {"max_subscribers": True},
        TypeError,
        "'max_subscribers' must be an integer or None",
    ),
    ({"max_subscribers_per_owner": -1}, ValueError, "'max_subscribers_per_owner'"),
    ({"max_subscribers_per_owner": 1.5}, TypeError, "'max_subscribers_per_owner'"),
]


@pytest.mark.parametrize(("options", "error", "message"), CHANNELS)
def test_channels(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Channels(**options)


CHANNEL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": ""}, ValueError, "'name' must not be empty"),
    ({"name": None}, TypeError, "'name' must be a string, not NoneType"),
    ({"name": 5}, TypeError, "'name' must be a string, not int"),
    ({"name": "\ud800"}, ValueError, "'name' must be text"),
    ({"history": -1}, ValueError, "'history' must be at least 0, not -1"),
    ({"history": 10**25}, ValueError, "'history' must be at most 9223372036854775807"),
    ({"history": 10**9999}, ValueError, "'history' must be at most 9223372036854775807"),
    ({"history_bytes": 2**63}, ValueError, "'history_bytes' must be at most 9223372036854775807"),
    ({"history": None}, TypeError, "'history' must be an integer, not NoneType"),
    ({"history": 1.0}, TypeError, "'history' must be an integer, not float"),
    ({"history": False}, TypeError, "'history' must be an integer, not bool"),
    ({"history_ttl": 0}, ValueError, "'history_ttl' must be finite and more than 0, not 0"),
    ({"history_ttl": -1}, ValueError, "'history_ttl' must be finite and more than 0"),
    ({"history_ttl": float("nan")}, ValueError, "'history_ttl' must be finite"),
    ({"history_ttl": float("inf")}, ValueError, "'history_ttl' must be finite"),
    ({"history_ttl": "1"}, TypeError, "'history_ttl' must be a number of seconds, not str"),
    ({"history_ttl": 10**400}, ValueError, "'history_ttl' must be finite"),
    ({"history_bytes": 0}, ValueError, "'history_bytes' must be at least 1, not 0"),
    ({"history_bytes": "4M"}, TypeError, "'history_bytes' must be an integer, not str"),
    ({"keyed": 1}, TypeError, "'keyed' must be True or False, not int"),
    ({"keyed": None}, TypeError, "'keyed' must be True or False, not NoneType"),
    ({"overflow": "drop"}, ValueError, "'overflow' must be 'gap', 'latest'"),
    ({"overflow": None}, TypeError, "'overflow' must be a string, not NoneType"),
    ({"overflow": []}, TypeError, "'overflow' must be a string, not list"),
    ({"max_subscribers": 0}, ValueError, "'max_subscribers' must be at least 1"),
    ({"max_subscribers": "2"}, TypeError, "'max_subscribers' must be an integer"),
    ({"item_type": Odd}, TypeError, "'item_type' of channel 'news' must be a type that pydantic"),
    (
        {"item_type": Annotated[int, Named("a")] | Annotated[int, Named("b")]},
        ValueError,
        "'item_type' of channel 'news': a value does not tell",
    ),
    ({"name": "é" * 257}, ValueError, "'name' must have at most 512 bytes in UTF-8, not 514"),
]
RESERVED: list[Any] = [
    Annotated[int, Named("gap")],
    ServerSentEvent[int, Literal["reset"]],
    Annotated[int, Named("a")] | ServerSentEvent[str, Literal["b", "run-end"]],
]


@pytest.mark.parametrize("item_type", RESERVED)
@pytest.mark.parametrize("make", [Channels.channel, Channels.runs])
def test_names_of_events_that_channels_use_themselves(make: Any, item_type: Any) -> None:
    channels = Channels()
    with pytest.raises(ValueError, match=r"'item_type' of (channel|runs) 'news': 'event' must not"):
        make(channels, "news", item_type)
    make(channels, "news")  # the name is still free


@pytest.mark.parametrize(("options", "error", "message"), CHANNEL)
def test_a_channel(options: Any, error: type[Exception], message: str) -> None:
    channels = Channels()
    with pytest.raises(error, match=message):
        channels.channel(**{"name": "news", **options})
    channels.channel("news")  # the name is still free


def test_a_channel_has_a_name_of_its_own() -> None:
    channels = Channels()
    channels.channel("news")
    with pytest.raises(ValueError, match=r"'name' must be new: .* 'news' already"):
        channels.channel("news")


PUBLISH: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (1, {"event": "gap"}, ValueError, "'event' must not be 'gap'"),
    (1, {"event": "reset"}, ValueError, "'event' must not be 'reset'"),
    (ServerSentEvent(data=1, event="gap"), {}, ValueError, "'event' must not be 'gap'"),
    (ServerSentEvent(data=1, event="a"), {"event": "b"}, ValueError, "'event' must not be given"),
    (ServerSentEvent(data=1, id="1"), {}, ValueError, "'id' must not be set"),
    (ServerSentEvent(data=1, id=""), {}, ValueError, "'id' must not be set"),
    (
        ServerSentEvent(data=fastapi.sse.ServerSentEvent(data=1, id="1")),
        {},
        ValueError,
        "'data' must not be an event",
    ),
    (1, {"event": 5}, TypeError, "'event' must be"),
    (1, {"event": []}, TypeError, "'event' must be"),
    (1, {"event": "a\nb"}, ValueError, "event"),
    (1, {"event": "\ud800"}, ValueError, "event"),
    (object(), {}, TypeError, "An item of type builtins.object .* to channel 'news'"),
    (ServerSentEvent(data=object()), {}, TypeError, "type builtins.object .* to channel 'news'"),
    (b"\xff", {}, ValueError, "An item of type builtins.bytes .* to channel 'news'"),
    (1, {"conflate": "x" * 513}, ValueError, "'conflate' must have at most 512 bytes"),
    (1, {"conflate": 1.5}, TypeError, "'conflate' must be a str, int or UUID, not float"),
    (1, {"conflate": []}, TypeError, "'conflate' must be a str, int or UUID, not list"),
]


@pytest.mark.parametrize(("item", "options", "error", "message"), PUBLISH)
@asyncio_only
async def test_publishing(item: Any, options: Any, error: type[Exception], message: str) -> None:
    for method in ("publish", "publish_soon"):
        channels = Channels()
        news = channels.channel("news")
        with pytest.raises(error, match=message):
            await getattr(news, method)(item, **options)
        assert channels._broker.histories == {}  # type: ignore[attr-defined]


@asyncio_only
async def test_an_event_is_refused_that_no_reader_takes() -> None:
    """`test_rules` reads the largest that is not."""
    news = Channels().channel("news")
    with pytest.raises(ValueError, match="channel 'news' must have at most 16777216 bytes, not"):
        await news.publish("x" * MAX_EVENT_SIZE)
    with pytest.raises(ValueError, match="channel 'news' must have at most 16777216 bytes, not"):
        news.publish_soon(ServerSentEvent(raw_data="x" * MAX_EVENT_SIZE))


async def is_shown(*_: Any) -> bool:
    return False


def generate(_: Any) -> Any:
    yield False


async def generate_async(_: Any) -> Any:
    yield False


class IsShown:
    async def __call__(self, event: Any) -> bool:
        return False

    async def method(self, event: Any) -> bool:
        return False


SUBSCRIBE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"after": 5}, TypeError, "'after' must be an id or None, not int"),
    ({"after": b"1"}, TypeError, "'after' must be an id or None, not bytes"),
    ({"start": "latest"}, ValueError, "'start' must be 'live', 'earliest' or a number"),
    ({"start": -1}, ValueError, "'start' must be"),
    ({"start": None}, TypeError, "'start' must be 'live', 'earliest' or an integer, not NoneType"),
    ({"start": True}, TypeError, "'start' must be 'live', 'earliest' or an integer, not bool"),
    ({"start": 1.5}, TypeError, "'start' must be 'live', 'earliest' or an integer, not float"),
    ({"filter": "a"}, TypeError, "'filter' must be callable or None, not str"),
    ({"filter": is_shown}, TypeError, "'filter' must be a plain function that returns a bool"),
    ({"filter": partial(partial(is_shown), 1)}, TypeError, "'filter' must be a plain function"),
    ({"filter": IsShown()}, TypeError, "'filter' must be a plain function"),
    ({"filter": IsShown().method}, TypeError, "'filter' must be a plain function"),
    ({"filter": generate}, TypeError, "'filter' must be a plain function"),
    ({"filter": generate_async}, TypeError, "'filter' must be a plain function"),
    ({"owner": "x" * 513}, ValueError, "'owner' must have at most 512 bytes"),
    ({"owner": 1.5}, TypeError, "'owner' must be a str, int or UUID, not float"),
    ({"owner": True}, TypeError, "'owner' must be a str, int or UUID, not bool"),
    ({"ping_interval": -1}, ValueError, "'ping_interval'"),
    ({"send_timeout": 0}, ValueError, "'send_timeout'"),
    ({"no_such_option": 1}, TypeError, "'no_such_option'"),
    ({"open_delay": 1}, TypeError, "'open_delay'"),
]


@pytest.mark.parametrize(("options", "error", "message"), SUBSCRIBE)
def test_subscribing(options: Any, error: type[Exception], message: str) -> None:
    channels = Channels()
    news = channels.channel("news")
    with pytest.raises(error, match=message):
        news.subscribe(**options)
    with pytest.raises(error, match=message):
        channels.subscribe(news.on(), **options)
    only = {"after", "start", "filter"}
    if options.keys() <= only:
        with pytest.raises(error, match=message):
            news.listen(**options)


USES: list[Callable[..., Any]] = [
    lambda channel, **key: channel.subscribe(**key),
    lambda channel, **key: channel.listen(**key),
    lambda channel, **key: channel.on(**key),
    lambda channel, **key: channel.publish_soon(1, **key),
    lambda channel, **key: anyio.run(partial(channel.publish, 1, **key)),
]
KEYS: list[tuple[Any, type[Exception], str]] = [
    (1.5, TypeError, "'key' must be a str, int or UUID, not float"),
    (True, TypeError, "'key' must be a str, int or UUID, not bool"),
    (b"a", TypeError, "'key' must be a str, int or UUID, not bytes"),
    ([], TypeError, "'key' must be a str, int or UUID, not list"),
    ("\ud800", ValueError, "'key' must be text"),
    ("é" * 257, ValueError, "'key' must have at most 512 bytes in UTF-8, not 514"),
    (10**512, ValueError, "'key' must have at most 512 bytes in UTF-8, not 513"),
]


class Room(str, Enum):
    LOBBY = "lobby"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("key", "same"),
    [(7, "7"), (UUID(int=7), str(UUID(int=7))), (Room.LOBBY, "lobby"), (Number.ONE, 1)],
)
def test_keys_are_compared_by_their_text(key: Any, same: Any) -> None:
    rooms = Channels().channel("rooms", keyed=True)
    assert rooms.on(key).key == rooms.on(same).key
    with pytest.raises(ValueError, match="'key' must have at most 512 digits"):
        rooms.on(10**5_000)  # Python writes no such integer
    rooms.on("é" * 256)
    rooms.on(-(10**510))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("key", "error", "message"), KEYS)
def test_a_key(use: Any, key: Any, error: type[Exception], message: str) -> None:
    channels = Channels()
    with pytest.raises(error, match=message):
        use(channels.channel("rooms", keyed=True), key=key)
    assert channels._broker.histories == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", USES)
@pytest.mark.parametrize("second", USES)
def test_a_channel_is_keyed_where_it_is_made_whatever_came_before(first: Any, second: Any) -> None:
    keyed, plain = Channels().channel("rooms", keyed=True), Channels().channel("news")
    missing = "`key` is missing: channel 'rooms' was created with keyed=True"
    surplus = "`key` must be left out: channel 'news' was created without keyed=True"
    for use in (first, second, first):
        with pytest.raises(ValueError, match=missing):
            use(keyed)
        with pytest.raises(ValueError, match=missing):
            use(keyed, key=None)
        use(keyed, key="a")
        for key in ("a", "", 0):
            with pytest.raises(ValueError, match=surplus):
                use(plain, key=key)
        use(plain)
        use(plain, key=None)


def test_selections() -> None:
    channels = Channels()
    rooms, news = channels.channel("rooms", keyed=True), channels.channel("news")
    with pytest.raises(ValueError, match="'selections' must be 1 to 32, not 0"):
        channels.subscribe()
    with pytest.raises(ValueError, match="'selections' must be 1 to 32, not 33"):
        channels.subscribe(*(rooms.on(key) for key in range(33)))
    for twice in ((rooms.on(1), rooms.on("1")), (news.on(), rooms.on(1), news.on())):
        with pytest.raises(ValueError, match="must not have the same channel and key twice"):
            channels.subscribe(*twice)
    for other in (news, "news", None, news.subscribe()):
        with pytest.raises(TypeError, match=r"what Channel\.on\(\) returns"):
            channels.subscribe(other)  # type: ignore[arg-type]


def test_selections_of_other_channels() -> None:
    theirs = Channels().channel("news")
    with pytest.raises(ValueError, match="'selections' must be of these channels"):
        Channels().subscribe(theirs.on())


@pytest.mark.parametrize("owner", [None, True, 1.5, b"a"])
@asyncio_only
async def test_closing_needs_an_owner(owner: Any) -> None:
    with pytest.raises(TypeError, match="'owner' must be a str, int or UUID"):
        await Channels().disconnect(owner=owner)


def test_what_may_be_published_again_and_what_may_not_are_different_errors() -> None:
    assert issubclass(BrokerUnavailable, BrokerError)
    assert issubclass(PublishUncertain, BrokerError)
    assert not issubclass(PublishUncertain, BrokerUnavailable)
    assert not issubclass(BrokerUnavailable, PublishUncertain)


@asyncio_only
async def test_closed_channels() -> None:
    channels = Channels()
    news = channels.channel("news")
    async with channels:
        await news.publish(1)
    with pytest.raises(RuntimeError, match="closed"):
        await news.publish(1)
    with pytest.raises(RuntimeError, match="closed"):
        news.publish_soon(1)
    async with channels:
        await news.publish(1)
