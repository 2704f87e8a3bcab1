"""Subclasses of `ServerSentEvent`: the defaults in their bodies and an `__init__` of their own, as
those of FastAPI's class have them. Both backends."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, Generic, Literal, TypeVar

import fastapi.sse
import pydantic
import pytest

import sserpent
from newest import newest_fastapi

NAMES = ("data", "raw_data", "event", "id", "retry", "comment")
T = TypeVar("T")
Ways = Callable[[ModuleType, str, Any], Any]


def annotated(core: ModuleType, name: str, value: Any) -> Any:
    body = {name: value, "__annotations__": {name: Any}}
    return type("Own", (core.ServerSentEvent,), body)


def bare(core: ModuleType, name: str, value: Any) -> Any:
    return type("Own", (core.ServerSentEvent,), {name: value})


def typed(core: ModuleType, name: str, value: Any) -> Any:
    class Own(core.ServerSentEvent[int, Literal["a"]]):  # type: ignore[misc, name-defined]
        locals()[name] = value

    return Own


def mixed_in(core: ModuleType, name: str, value: Any) -> Any:
    return type("Own", (type("Mixin", (), {name: value}), core.ServerSentEvent), {})


def inherited(core: ModuleType, name: str, value: Any) -> Any:
    return type("Own", (bare(core, name, value),), {})


WAYS = [annotated, bare, typed, mixed_in, inherited]
DEFAULTS: dict[str, Any] = {
    "data": {"a": 1},
    "raw_data": "a\nb",
    "event": "token",
    "id": "7",
    "retry": 5_000,
    "comment": "c",
}


# Defaults


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_default_is_on_the_wire(core: ModuleType, name: str, way: Ways) -> None:
    own, value = way(core, name, DEFAULTS[name]), DEFAULTS[name]
    other = {"comment": "other"} if name == "id" else {"id": "other"}
    plain = core.ServerSentEvent(**{name: value}, **other)
    event = own(**other)
    assert event.encode() == plain.encode()
    assert getattr(event, name) == value
    buffer = core.Buffer()
    buffer.push(event)
    assert buffer.take() == plain.encode()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_comes_before_the_default(core: ModuleType, name: str, way: Ways) -> None:
    own = way(core, name, DEFAULTS[name])
    for given in ("9", None) if name != "retry" else (9, None):
        event, plain = own(**{name: given}), core.ServerSentEvent(**{name: given})
        assert getattr(event, name) == given
        assert event.encode() == plain.encode()


@newest_fastapi
@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_of_fastapi(core: ModuleType, name: str) -> None:
    value = DEFAULTS[name]
    annotations = {name: Any}
    theirs = type(
        "Theirs", (fastapi.sse.ServerSentEvent,), {name: value, "__annotations__": annotations}
    )
    for fields in ({}, {name: None}, {"id": "1"}):
        buffer = core.Buffer()
        buffer.push(theirs(**fields))
        assert annotated(core, name, value)(**fields).encode() == buffer.take()


def test_defaults_are_inherited_and_replaced(core: ModuleType) -> None:
    class Base(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        event = "base"
        retry = 1

    class Plain(Base):
        pass

    class Named(Base):
        event = "named"

    class Both(Plain, Named):
        id = "7"

    class Nameless(Named):
        event = None

    def shown(event: Any) -> tuple[Any, ...]:
        return event.event, event.retry, event.id

    assert shown(Base()) == shown(Plain()) == ("base", 1, None)
    assert shown(Named()) == ("named", 1, None)
    assert shown(Both()) == ("named", 1, "7")
    assert shown(Nameless()) == (None, 1, None)


def test_a_class_variable_is_a_default_and_other_attributes_are_none(core: ModuleType) -> None:
    class Own(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        event: ClassVar[str] = "own"
        id: str
        version = 3

    assert Own().encode() == b"event: own\n\n"
    assert Own().version == 3
    assert "version" not in repr(Own())


def test_a_default_is_converted_as_an_argument_is(core: ModuleType) -> None:
    assert bare(core, "retry", True)().encode() == b"retry: 1\n\n"
    assert type(bare(core, "event", type("Text", (str,), {})("a"))().event) is str


def test_a_default_that_can_be_changed_belongs_to_one_event(core: ModuleType) -> None:
    own = bare(core, "data", {"seen": []})
    own().data["seen"].append(1)
    assert own().data == {"seen": []}


def test_it_cannot_be_changed_either(core: ModuleType) -> None:
    event = bare(core, "event", "a")()
    for name in NAMES:
        with pytest.raises(AttributeError):
            setattr(event, name, "b")
    event.__init__(event="b")
    assert event.event == "a"


def test_generic_classes_have_defaults(core: ModuleType) -> None:
    class Of(core.ServerSentEvent[T, Literal["of"]], Generic[T]):  # type: ignore[misc, name-defined]
        event = "of"

    assert Of[int](data=1).encode() == b"event: of\ndata: 1\n\n"


def test_a_class_hears_of_its_subclasses(core: ModuleType) -> None:
    heard = []

    class Mixin:
        def __init_subclass__(cls, *, topic: str, **options: Any) -> None:
            super().__init_subclass__(**options)
            heard.append((cls.__name__, topic))

    class Own(core.ServerSentEvent, Mixin, topic="a"):  # type: ignore[misc, name-defined]
        event = "own"

    assert heard == [("Own", "a")]
    assert Own().event == "own"
    with pytest.raises(TypeError, match="takes no keyword arguments"):

        class Refused(core.ServerSentEvent, topic="a"):  # type: ignore[misc, name-defined]
            pass


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("event", "a\nb", ValueError, "Own.event: SSE 'event' must be a single line"),
        ("id", "a\0", ValueError, "Own.id: SSE 'id' must not contain null characters"),
        ("comment", 1, ValueError, "Own.comment: SSE 'comment' must be a string, not int"),
        ("raw_data", "\ud800", ValueError, "Own.raw_data: SSE 'raw_data' must be valid Unicode"),
        ("retry", -1, ValueError, "Own.retry: SSE 'retry' must be a non-negative integer"),
        ("event", property(lambda self: "a"), TypeError, "Own.event must be .* not property"),
        ("data", lambda self: 1, TypeError, "Own.data must be the default itself, not function"),
        ("id", pydantic.Field("7"), TypeError, "Own.id must be the default itself, not FieldInfo"),
        ("data", dataclasses.field(default=1), TypeError, "Own.data must be .*, not Field:"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_default_is_refused_where_the_class_is_made(
    core: ModuleType, way: Ways, name: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        way(core, name, value)


def test_a_slot_of_a_field_is_refused(core: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"Own.event must be the default itself, not member_desc"):
        type("Own", (core.ServerSentEvent,), {"__slots__": ("event",)})


def test_two_kinds_of_data_are_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="Own cannot set both 'data' and 'raw_data' by default"):
        type("Own", (core.ServerSentEvent,), {"data": 1, "raw_data": "a"})
    with pytest.raises(ValueError, match="Cannot set both 'data' and 'raw_data'"):
        bare(core, "data", 1)(raw_data="a")


# An __init__


def of_text(core: ModuleType) -> Any:
    class Token(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        event = "token"

        def __init__(self, text: str, **fields: Any) -> None:
            super().__init__(raw_data=text, **fields)
            self.length = len(text)

    return Token


def test_an_init_gives_the_fields(core: ModuleType) -> None:
    token_class = of_text(core)
    for token in (token_class("hello", id="1"), token_class(text="hello", id="1")):
        assert token.encode() == b"event: token\ndata: hello\nid: 1\n\n"
        assert repr(token) == "Token(raw_data='hello', event='token', id='1')"
        assert (token.raw_data, token.event, token.id, token.length) == ("hello", "token", "1", 5)
        buffer = core.Buffer()
        buffer.push(token)
        assert buffer.take() == token.encode()
    assert token_class("a", event=None).encode() == b"data: a\n\n"
    assert token_class("a") == token_class("a") != token_class("b")
    assert len({token_class("a"), token_class("a"), token_class("b")}) == 2


def test_an_init_with_arguments_that_fields_have_too(core: ModuleType) -> None:
    class Own(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        def __init__(self, *, data: Any, id: int) -> None:
            super().__init__(raw_data=f"<{data}>", id=f"{id}\n".strip())

    assert Own(data=1, id="7\n").encode() == b"data: <1>\nid: 7\n\n"


def test_an_init_refuses_what_a_field_refuses(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="'id' must be a single line"):
        of_text(core)("a", id="\n")
    with pytest.raises(TypeError, match="unexpected keyword argument 'name'"):
        of_text(core)("a", name="b")
    with pytest.raises(TypeError, match="required positional argument: 'text'"):
        of_text(core)()


def test_an_init_is_inherited_and_gives_the_fields_once(core: ModuleType) -> None:
    class Shout(of_text(core)):  # type: ignore[misc]
        id = "7"

        def __init__(self, text: str) -> None:
            super().__init__(text.upper())

    event = Shout("a")
    assert event.encode() == b"event: token\ndata: A\nid: 7\n\n"
    event.__init__("b")
    assert event.encode() == b"event: token\ndata: A\nid: 7\n\n"


def test_an_init_without_that_of_its_base_keeps_what_fits(core: ModuleType) -> None:
    class Seen(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        def __init__(self, **fields: Any) -> None:
            self.seen = False

    assert Seen(data=1, event="a").encode() == b"event: a\ndata: 1\n\n"
    with pytest.raises(RuntimeError, match=r"^Seen.__init__\(\) must call super\(\).__init__\(\) "):
        Seen(name=1).encode()
    for path in (core.Buffer(), core.Buffer(core.DeclaredEvents({}, {}, len))):
        with pytest.raises(RuntimeError, match="Seen"):
            path.push(Seen(id="\n"))
        assert path.take() == b""


def test_an_init_may_give_no_field(core: ModuleType) -> None:
    class Nothing(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

    assert Nothing().encode() == core.ServerSentEvent().encode()


def test_a_new_of_its_own_gives_the_fields(core: ModuleType) -> None:
    class Own(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        def __new__(cls, text: str) -> Any:
            return super().__new__(cls, raw_data=text)

        def __init__(self, text: str, **fields: Any) -> None:
            super().__init__(**fields)

    assert Own("a").encode() == b"data: a\n\n"
    with pytest.raises(TypeError, match=r"Inits has a __new__ of its own, so its fields are"):
        type("Inits", (Own,), {"__init__": lambda self, text: Own.__init__(self, text, id="1")})(
            "a"
        )
    with pytest.raises(TypeError, match=r"Named.event: a class with a __new__ of its own gives"):
        type("Named", (Own,), {"event": "a"})


def test_a_new_on_top_of_a_class_with_defaults(core: ModuleType) -> None:
    class Own(bare(core, "event", "token")):  # type: ignore[misc]
        id = "7"

        def __new__(cls, text: str) -> Any:
            return super().__new__(cls, raw_data=text)

    assert Own("a").encode() == b"event: token\ndata: a\nid: 7\n\n"


def test_the_init_of_another_base_is_called(core: ModuleType) -> None:
    class Mixin:
        def __init__(self, **given: Any) -> None:
            self.given = given

    class Without(core.ServerSentEvent, Mixin):  # type: ignore[misc, name-defined]
        event = "a"

    class With(core.ServerSentEvent, Mixin):  # type: ignore[misc, name-defined]
        def __init__(self, text: str) -> None:
            super().__init__(raw_data=text)

    assert (Without(data=1).given, Without(data=1).event) == ({"data": 1}, "a")
    assert (With("a").given, With("a").raw_data) == ({}, "a")


def slotted(core: ModuleType) -> Any:
    class Slotted(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        __slots__ = ("__hidden", "never_set", "seen")

        def hide(self, value: object) -> None:
            self.__hidden = value

        def hidden(self) -> object:
            return self.__hidden

    return Slotted


@pytest.fixture
def shared(core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with classes of one backend, where pickles find them by their names."""
    for made in (of_text(core), bare(core, "event", "own"), slotted(core)):
        made.__module__, made.__qualname__ = __name__, made.__name__
        monkeypatch.setattr(sys.modules[__name__], made.__name__, made, raising=False)
    monkeypatch.setattr(sserpent, "ServerSentEvent", core.ServerSentEvent)
    return sys.modules[__name__]


ways_to_copy = pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))],
    ids=["copy", "deepcopy", "pickle"],
)


@ways_to_copy
def test_copies_are_equal(shared: Any, again: Callable[[Any], Any]) -> None:
    for event in (
        shared.Own(data=[1]),
        shared.Own(event=None, id="7"),
        shared.Token("hello", retry=2**70),
        shared.Token("hello", event=None),
    ):
        copied = again(event)
        assert copied == event
        assert copied.encode() == event.encode()
        assert vars(copied) == vars(event)


@ways_to_copy
def test_copies_have_what_is_in_slots_of_their_own(
    shared: Any, again: Callable[[Any], Any]
) -> None:
    event = shared.Slotted(data=[1])
    event.seen = True
    event.hide("hidden")
    copied = again(event)
    assert (copied, copied.seen, copied.hidden()) == (event, True, "hidden")
    assert not hasattr(copied, "never_set")
