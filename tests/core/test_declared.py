"""Declared events in the core: each backend checks and frames them alike."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import fastapi.sse
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError


class Item(BaseModel):
    name: str


class SubItem(Item):
    extra: int = 1


def schema_of(core: ModuleType, item_type: Any) -> Any:
    adapter = TypeAdapter(item_type)
    return core.ItemSchema(adapter.validator.validate_python, {}, adapter.serializer.to_json, {})


class Undeclared(Exception):
    pass


def declared(core: ModuleType, *, any_name: bool = False) -> Any:
    item, number = schema_of(core, Item), schema_of(core, int)

    def otherwise(asked: Any) -> Any:
        if isinstance(asked, Item):
            return "item", item, asked
        raise Undeclared(asked)

    by_name = {"item": item, **({None: number} if any_name else {})}
    return core.DeclaredEvents(by_name, {Item: ("item", item), int: ("number", number)}, otherwise)


def pushed(core: ModuleType, item: Any, **options: Any) -> bytes:
    buffer = core.Buffer(declared(core, **options))
    buffer.push(item)
    taken: bytes = buffer.take()
    return taken


def test_a_value_becomes_the_event_of_its_class(core: Any) -> None:
    assert pushed(core, Item(name="a")) == b'event: item\ndata: {"name":"a"}\n\n'
    assert pushed(core, 7) == b"event: number\ndata: 7\n\n"


def test_a_value_of_another_class_is_asked_for(core: Any) -> None:
    assert pushed(core, SubItem(name="a")).startswith(b"event: item\n")
    with pytest.raises(Undeclared):
        pushed(core, "text")


def test_the_data_of_an_event_is_of_its_name_s_type(core: Any) -> None:
    event = core.ServerSentEvent(data={"name": "a"}, event="item", id="1", retry=2, comment="c")
    assert pushed(core, event) == b': c\nevent: item\ndata: {"name":"a"}\nid: 1\nretry: 2\n\n'
    with pytest.raises(ValidationError):
        pushed(core, core.ServerSentEvent(data={"nam": "a"}, event="item"))


def test_an_event_of_another_name_is_asked_for(core: Any) -> None:
    for event in (
        core.ServerSentEvent(data=1, event="other"),
        core.ServerSentEvent(data=1),
    ):
        with pytest.raises(Undeclared):
            pushed(core, event)
        assert b"data: 1\n" in pushed(core, event, any_name=True)


def test_fastapi_s_events_are_events(core: Any) -> None:
    event = fastapi.sse.ServerSentEvent(data={"name": "a"}, event="item")
    assert pushed(core, event) == b'event: item\ndata: {"name":"a"}\n\n'


def test_raw_data_and_comments_pass(core: Any) -> None:
    assert pushed(core, core.ServerSentEvent(raw_data="x", event="?")) == b"event: ?\ndata: x\n\n"
    assert pushed(core, core.ServerSentEvent(comment="x")) == b": x\n\n"


def test_what_is_refused_leaves_nothing_behind(core: Any) -> None:
    buffer = core.Buffer(declared(core))
    buffer.push(1)
    before = buffer.pending
    for bad in ("text", core.ServerSentEvent(data=1, event="item")):
        with pytest.raises((Undeclared, ValidationError)):
            buffer.push(bad)
    assert buffer.pending == before


def test_the_data_that_is_returned_is_not_validated_again(core: Any) -> None:
    never = core.ItemSchema(pytest.fail, {}, TypeAdapter(int).serializer.to_json, {})
    buffer = core.Buffer(core.DeclaredEvents({}, {}, lambda _: ("a", never, 7)))
    buffer.push("seven")
    buffer.push(core.ServerSentEvent(data="seven", event="b", id="1"))
    assert buffer.take() == b"event: a\ndata: 7\n\nevent: b\ndata: 7\nid: 1\n\n"


def test_subscripting_is_for_annotations_alone(core: Any) -> None:
    alias = core.ServerSentEvent[int]
    assert alias.__origin__ is core.ServerSentEvent
    assert core.ServerSentEvent[int, str].__args__ == (int, str)
    assert type(alias(data=1)) is core.ServerSentEvent
