"""Options: which there are, and what is said of those that are wrong."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import pytest

from sserpent import EventSourceResponse
from sserpent._delivery.options import _OTHER_NAMES, Options
from sserpent.channels import Channels, Run

# What is said of an option does not depend on the core.
pytestmark = pytest.mark.once

WRONG_TYPES: list[tuple[str, Any, str]] = [
    ("ping_interval", "1", "'ping_interval' must be a number of seconds or None, not str"),
    (
        "ping_event",
        b": ping\n",
        "'ping_event' must be a ServerSentEvent, a function that returns one",
    ),
    ("ping_event", anyio.sleep, "'ping_event' must be a function that is not async"),
    ("open_delay", True, "'open_delay' must be a number of seconds or None, not bool"),
    ("send_timeout", [1], "'send_timeout' must be a number of seconds or None, not list"),
    ("cleanup_timeout", None, "'cleanup_timeout' must be a number of seconds, not NoneType"),
    ("shutdown_grace", b"1", "'shutdown_grace' must be a number of seconds, not bytes"),
    ("max_duration", "1", "'max_duration' must be a number of seconds or None, not str"),
    ("expires_at", 7, "'expires_at' must be a datetime with a time zone, or None, not int"),
    ("max_pending", 1.5, "'max_pending' must be an integer, not float"),
    ("compress", "gzip", "'compress' must be True or False, not str"),
    ("on_disconnect", 5, "'on_disconnect' must be callable, not int"),
]
BAD_VALUES: list[tuple[str, Any, str]] = [
    ("ping_interval", -1, "'ping_interval' must be finite and not negative, not -1"),
    ("open_delay", float("nan"), "'open_delay' must be finite and not negative, not nan"),
    ("send_timeout", 0, "'send_timeout' must be more than 0; None turns it off"),
    ("cleanup_timeout", float("inf"), "'cleanup_timeout' must be finite and not negative, not inf"),
    ("shutdown_grace", 10**400, "'shutdown_grace' must be finite and not negative, not inf"),
    ("expires_at", datetime(2030, 1, 1), "'expires_at' must be a datetime with a time zone, not"),
    ("max_duration", 0, "'max_duration' must be more than 0; None turns it off"),
    ("max_pending", 0, "'max_pending' must be at least 1, not 0"),
]
OF_A_CLASS: list[tuple[str, Any, type[Exception], str]] = [
    ("max_streams", "5", TypeError, "'max_streams' must be an integer or None, not str"),
    ("max_threads", None, TypeError, "'max_threads' must be an integer, not NoneType"),
    ("max_threads", 0, ValueError, "'max_threads' must be at least 1, not 0"),
]
REFUSED = [(*each, TypeError) for each in WRONG_TYPES] + [
    (*each, ValueError) for each in BAD_VALUES
]


async def events() -> AsyncIterator[int]:
    yield 1


def response(**options: Any) -> EventSourceResponse:
    return EventSourceResponse(events(), **options)


@pytest.mark.parametrize(("name", "value", "message", "error"), REFUSED)
class TestABadOption:
    """The wrong type is a TypeError, a bad value a ValueError, wherever it is given."""

    def test_as_a_keyword(
        self, name: str, value: object, message: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error) as caught:
            response(**{name: value})
        assert type(caught.value) is error
        assert message in str(caught.value)

    def test_as_a_class_attribute(
        self, name: str, value: object, message: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error) as caught:
            type("Patient", (EventSourceResponse,), {name: value})
        assert message in str(caught.value)

    def test_as_an_attribute_of_a_mixin(
        self, name: str, value: object, message: str, error: type[Exception]
    ) -> None:
        mixin: type = type("Mixin", (), {name: value})
        with pytest.raises(error) as caught:
            type("Patient", (mixin, EventSourceResponse), {})
        assert message in str(caught.value)

    def test_assigned_to_a_response(
        self, name: str, value: object, message: str, error: type[Exception]
    ) -> None:
        made = response()
        before = getattr(made, name)
        with pytest.raises(error) as caught:
            setattr(made, name, value)
        assert message in str(caught.value)
        assert getattr(made, name) == before

    def test_assigned_to_a_subscription(
        self, name: str, value: object, message: str, error: type[Exception]
    ) -> None:
        subscription = Channels().channel("news").subscribe()
        if name != "open_delay":
            with pytest.raises(error) as caught:
                setattr(subscription, name, value)
            assert message in str(caught.value)


@pytest.mark.parametrize(("name", "value", "error", "message"), OF_A_CLASS)
def test_what_limits_a_class_is_checked_where_the_class_is_made(
    name: str, value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        type("Bounded", (EventSourceResponse,), {name: value})


@pytest.mark.parametrize("name", ["max_streams", "max_threads"])
def test_what_limits_a_class_is_no_option_of_a_response(name: str) -> None:
    message = f"EventSourceResponse has no option '{name}': .* set it as a class attribute"
    with pytest.raises(TypeError, match=message):
        response(**{name: 5})
    with pytest.raises(TypeError, match=message):
        setattr(response(), name, 5)


def test_a_good_value_assigned_to_a_response_is_taken() -> None:
    made = response()
    made.ping_interval = None
    made.max_pending = 1
    made.on_disconnect = print
    assert (made.ping_interval, made.max_pending, made.on_disconnect) == (None, 1, print)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ping", "ping_interval"),
        ("ping_intervall", "ping_interval"),
        ("pingInterval", "ping_interval"),
        ("timeout", "send_timeout"),
        ("disconnect", "on_disconnect"),
    ],
)
def test_an_unknown_option_is_told_which_is_near_and_which_there_are(name: str, meant: str) -> None:
    with pytest.raises(TypeError) as caught:
        response(**{name: 1})
    message = str(caught.value)
    assert message.startswith(f"EventSourceResponse has no option '{name}': did you mean '{meant}'")
    assert all(option in message for option in Options.__annotations__)


def test_an_option_like_no_other_is_told_which_there_are() -> None:
    with pytest.raises(TypeError) as caught:
        response(sep="\n")
    assert str(caught.value).startswith("EventSourceResponse has no option 'sep'. Its options are ")
    assert "'" not in str(caught.value).partition("Its options are ")[2]


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("ping_intervall", 5, "ping_interval"),
        ("pinginterval", 5, "ping_interval"),
        ("open_dealy", 5, "open_delay"),
        ("max_stream", 5, "max_streams"),
        ("max_threds", 5, "max_threads"),
        ("ping", 5, "ping_interval"),
        ("shutdown_grace_period", 5, "shutdown_grace"),
        ("client_close_handler_callable", print, "on_disconnect"),
        ("on_disconect", lambda self: None, "on_disconnect"),
        ("on_disconnected", staticmethod(print), "on_disconnect"),
    ],
)
def test_a_misspelt_class_attribute_is_refused(name: str, value: object, meant: str) -> None:
    message = f"^Patient has no option '{name}': did you mean '{meant}'"
    with pytest.raises(TypeError, match=message):
        type("Patient", (EventSourceResponse,), {name: value})
    if meant in Options.__annotations__ and name not in _OTHER_NAMES:  # compat sets those
        with pytest.raises(TypeError, match=message.replace("Patient", "EventSourceResponse")):
            setattr(response(), name, value)


def test_names_of_an_applications_own_are_left_alone() -> None:
    class Mixed:
        max_stream = 3

    class Own(Mixed, EventSourceResponse):
        PING_INTERVAL = 5
        _ping_intervall = 5
        max_stream = 4
        on_connect = print
        read_timeout = 5
        topic = "news"
        ping_interval = PING_INTERVAL

        def ping_intervals(self) -> list[float]:
            return [1]

    made = Own(events())
    made.topic = "weather"
    made.max_stream = 5
    assert (made.ping_interval, made.max_stream) == (5, 5)


def test_an_option_may_be_a_property_of_a_subclass() -> None:
    class Computed(EventSourceResponse):
        @property
        def ping_interval(self) -> float:  # type: ignore[override]
            return 3

    assert Computed(events()).ping_interval == 3


def test_the_keywords_are_the_options_and_have_their_types() -> None:
    defaults = {
        name: value
        for name, value in vars(EventSourceResponse.__mro__[1]).items()
        if not name.startswith("_")
    }
    assert defaults.keys() - {"max_threads", "max_streams"} == Options.__annotations__.keys()


def test_what_is_ours_alone_is_not_in_the_help() -> None:
    public = {name for name, _ in inspect.getmembers(response()) if not name.startswith("_")}
    theirs = {
        "background", "body_iterator", "charset", "closing_event", "default_headers",
        "delete_cookie", "headers", "init_headers", "item_type",
        "listen_for_disconnect", "media_type", "raw_headers", "render",
        "set_cookie", "status_code", "stream_response", "max_threads", "max_streams",
    }  # fmt: skip
    assert public - theirs == Options.__annotations__.keys()


def test_options_cost_a_response_little() -> None:
    """Who is served with a class's options pays nothing for their checks."""
    made = response()
    own = vars(made).keys()
    assert not own & Options.__annotations__.keys()


def test_an_unknown_option_of_a_subscription_names_the_arguments_too() -> None:
    channels = Channels()
    news, runs = channels.channel("news"), channels.runs("answers")
    makes: list[Any] = [
        news.subscribe,
        partial(channels.subscribe, news.on()),
        Run(runs, "a", None).follow,
    ]
    for make in makes:
        with pytest.raises(TypeError) as caught:
            make(last_event_id="x")
        message = str(caught.value)
        assert message.startswith(
            "Subscription has no option 'last_event_id': did you mean 'after'"
        )
        assert all(name in message for name in ("owner", "headers", "ping_interval"))
