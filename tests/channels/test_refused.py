"""What is refused, by its name, where it is given; and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import fastapi.sse
import pytest

from sserpent import ServerSentEvent
from sserpent.channels import BrokerError, BrokerUnavailable, Channels, PublishUncertain


class Odd:
    pass


CHANNELS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_subscribers": 0}, ValueError, "'max_subscribers' must be at least 1"),
    ({"max_subscribers": "a"}, TypeError, "'max_subscribers' must be an integer, not str"),
    ({"max_subscribers": True}, TypeError, "'max_subscribers' must be an integer, not bool"),
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
    ({"history": None}, TypeError, "'history' must be an integer, not NoneType"),
    ({"history": 1.0}, TypeError, "'history' must be an integer, not float"),
    ({"history": False}, TypeError, "'history' must be an integer, not bool"),
    ({"history_ttl": 0}, ValueError, "'history_ttl' must be finite and more than 0, not 0.0"),
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
    ({"overflow": None}, ValueError, "'overflow' must be"),
    ({"overflow": []}, ValueError, "'overflow' must be"),
    ({"max_subscribers": 0}, ValueError, "'max_subscribers' must be at least 1"),
    ({"max_subscribers": "2"}, TypeError, "'max_subscribers' must be an integer"),
    ({"item_type": Odd}, Exception, "Odd"),
]


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
    (1, {"conflate": 1.5}, TypeError, "'conflate' must be a str, int or UUID, not float"),
    (1, {"conflate": []}, TypeError, "'conflate' must be a str, int or UUID, not list"),
]


@pytest.mark.parametrize(("item", "options", "error", "message"), PUBLISH)
def test_publishing(item: Any, options: Any, error: type[Exception], message: str) -> None:
    async def main() -> None:
        for method in ("publish", "publish_soon"):
            channels = Channels()
            news = channels.channel("news")
            with pytest.raises(error, match=message):
                await getattr(news, method)(item, **options)
            assert channels._log.histories == {}  # type: ignore[attr-defined]

    anyio.run(main)


SUBSCRIBE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"after": 5}, TypeError, "'after' must be an id or None, not int"),
    ({"after": b"1"}, TypeError, "'after' must be an id or None, not bytes"),
    ({"start": "latest"}, ValueError, "'start' must be 'live', 'earliest' or a number"),
    ({"start": -1}, ValueError, "'start' must be"),
    ({"start": None}, ValueError, "'start' must be"),
    ({"start": True}, ValueError, "'start' must be"),
    ({"start": 1.5}, ValueError, "'start' must be"),
    ({"filter": "a"}, TypeError, "'filter' must be callable or None, not str"),
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
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("key", "error", "message"), KEYS)
def test_a_key(use: Any, key: Any, error: type[Exception], message: str) -> None:
    channels = Channels()
    with pytest.raises(error, match=message):
        use(channels.channel("rooms", keyed=True), key=key)
    assert channels._log.histories == {}  # type: ignore[attr-defined]


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
def test_closing_needs_an_owner(owner: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="'owner' must be a str, int or UUID"):
            await Channels().disconnect(owner=owner)

    anyio.run(main)


def test_what_may_be_published_again_and_what_may_not_are_different_errors() -> None:
    assert issubclass(BrokerUnavailable, BrokerError)
    assert issubclass(PublishUncertain, BrokerError)
    assert not issubclass(PublishUncertain, BrokerUnavailable)
    assert not issubclass(BrokerUnavailable, PublishUncertain)


def test_closed_channels() -> None:
    async def main() -> None:
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

    anyio.run(main)
