"""What a protocol asks of items, on both backends."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import struct
from collections import OrderedDict
from datetime import datetime
from typing import Any

import fastapi.sse
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, field_serializer, model_serializer

from json_kinds import DumpsItself
from sserpent._core import pure


class Part(BaseModel):
    type: str = "part"
    text: str | None = None
    extra: dict[str, Any] = {"kept": None}


class Whole(BaseModel):
    part: Part = Part()
    note: int | None = None


@dataclasses.dataclass
class Data:
    type: str
    note: int | None = None


def pushed(core: Any, *items: Any, buffer: dict[str, Any] | None = None, **rules: Any) -> str:
    made = core.Buffer(rules=core.ItemRules("Mine", **rules), **buffer or {})
    for item in items:
        made.push(item)
    return str(made.take().decode())


def refusal(core: Any, item: Any, **rules: Any) -> str:
    buffer = core.Buffer(rules=core.ItemRules("Mine", **rules))
    buffer.push({"type": "before"})
    before = buffer.pending
    with pytest.raises((TypeError, ValueError)) as raised:
        buffer.push(item)
    assert buffer.pending == before
    assert buffer.kept()[2] == 1
    return f"{raised.type.__name__}: {raised.value}"


def test_p6_items_are_objects_and_events(core: Any) -> None:
    event = core.ServerSentEvent(data="text", event="e")
    theirs = fastapi.sse.ServerSentEvent(raw_data="raw")
    assert pushed(core, {"a": None}, Part(), Data("d"), event, theirs) == (
        'data: {"a":null}\n\ndata: {"type":"part","text":null,"extra":{"kept":null}}\n\n'
        'data: {"type":"d","note":null}\n\nevent: e\ndata: "text"\n\ndata: raw\n\n'
    )
    for item in ("text", b"bytes", 1, None, [{}]):
        kind = type(item).__name__
        assert refusal(core, item) == f"TypeError: Mine sends dicts, models and events, not {kind}"


def test_p6_the_fields_of_models_that_are_none_are_left_out(core: Any) -> None:
    kept = '{"type":"part","extra":{"kept":null}}'
    items = Part(), {"part": Part(), "list": [Whole()], "none": None}, Whole()
    assert pushed(core, *items, exclude_none=True) == (
        f'data: {kept}\n\ndata: {{"part":{kept},"list":[{{"part":{kept}}}],"none":null}}\n\n'
        f'data: {{"part":{kept}}}\n\n'
    )
    # Events are sent as they are.
    event = core.ServerSentEvent(data=Part())
    assert '"text":null' in pushed(core, event, exclude_none=True)


def test_p7_a_field_names_the_event(core: Any) -> None:
    event = core.ServerSentEvent(data={"type": "of the data"})
    items = {"type": "a"}, {"nested": {"type": "x"}, "type": 'é"\\'}, Part(), event
    assert pushed(core, *items, name_from="type", exclude_none=True) == (
        'event: a\ndata: {"type":"a"}\n\n'
        'event: é"\\\ndata: {"nested":{"type":"x"},"type":"é\\"\\\\"}\n\n'
        'event: part\ndata: {"type":"part","extra":{"kept":null}}\n\n'
        'data: {"type":"of the data"}\n\n'
    )


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", "a\tb", "é", "\U0001f40d", "a/b", "\x7f", "\u2028"]
)
def test_p7_a_key_is_found_however_it_is_written(core: Any, name: str) -> None:
    assert pushed(core, {"": 0, name: "n"}, name_from=name).startswith("event: n\n")
    numbered = pushed(core, {name: "n", "b": 1}, {"b": 1}, number_as=name)
    assert [json.loads(line[6:]) for line in numbered.split("\n\n")[:-1]] == [
        {name: 0, "b": 1},
        {"b": 1, name: 1},
    ]
    escaped = "".join(f"\\u{unit:04x}" for unit in utf_16_units(name))

    def written(item: Any) -> bytes:
        return f'{{"x\\u00e9":2,"{escaped}":"n"}}'.encode()

    schema = core.ItemSchema(lambda item: item, {}, written, {})
    buffer = core.Buffer(schema, rules=core.ItemRules("Mine", name_from=name, number_as="xé"))
    buffer.push({})
    assert buffer.take().decode() == f'event: n\ndata: {{"x\\u00e9":0,"{escaped}":"n"}}\n\n'


def utf_16_units(text: str) -> tuple[int, ...]:
    encoded = text.encode("utf-16-be")
    return struct.unpack(f">{len(encoded) // 2}H", encoded)


def test_a_key_with_a_lone_surrogate_is_none_of_the_names(core: Any) -> None:
    item = {"a\ud800": 1, "type": "n"}
    assert pushed(core, item, name_from="type") == ('event: n\ndata: {"a\\ud800":1,"type":"n"}\n\n')


def test_p7_an_item_without_a_name_is_refused(core: Any) -> None:
    rule = "Mine names an event by the field 'type' of its item"
    lacks = f"ValueError: {rule}, which this dict does not have"
    assert refusal(core, {}, name_from="type") == lacks
    assert refusal(core, {"a": {"type": "x"}}, name_from="type") == lacks
    for name in (None, 1, ["x"]):
        assert refusal(core, {"type": name}, name_from="type") == (
            f"TypeError: {rule}, which must be a str"
        )
    two_lines = refusal(core, {"type": "a\nb"}, name_from="type")
    assert two_lines == "ValueError: SSE 'event' must be a single line"
    lone = refusal(core, {"type": "\ud800"}, name_from="type")
    assert lone == "ValueError: SSE 'event' must be valid Unicode, without lone surrogates"


def test_p8_each_item_has_its_number(core: Any) -> None:
    event = core.ServerSentEvent(data={"n": 9})
    mine = {"n": 7, "a": {"n": 1}}
    assert pushed(core, mine, event, {}, {"a": [1, "}"]}, Part(), number_as="n") == (
        'data: {"n":0,"a":{"n":1}}\n\ndata: {"n":9}\n\ndata: {"n":2}\n\n'
        'data: {"a":[1,"}"],"n":3}\n\n'
        'data: {"type":"part","text":null,"extra":{"kept":null},"n":4}\n\n'
    )
    assert mine == {"n": 7, "a": {"n": 1}}


def test_numbers_go_on_from_a_count(core: Any) -> None:
    assert pushed(core, {}, buffer={"count": 5}, number_as="n") == 'data: {"n":5}\n\n'


def test_an_item_is_named_by_what_stands_before_and_behind_its_number(core: Any) -> None:
    rules = {"name_from": "type", "number_as": "n"}
    for had in (0, 1_234_567, None, [1, {"type": "y", "n": 2}], "n"):
        numbered = '"n":10'
        assert pushed(core, {"n": had, "type": "x"}, buffer={"count": 10}, **rules) == (
            f'event: x\ndata: {{{numbered},"type":"x"}}\n\n'
        )
        assert pushed(core, {"type": "x", "n": had}, buffer={"count": 10}, **rules) == (
            f'event: x\ndata: {{"type":"x",{numbered}}}\n\n'
        )


def test_an_item_is_named_by_the_text_that_its_number_replaces(core: Any) -> None:
    assert pushed(core, {"n": "first"}, name_from="n", number_as="n") == (
        'event: first\ndata: {"n":0}\n\n'
    )


@given(
    before=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4),
    name=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
    after=st.dictionaries(
        st.text(max_size=5), st.recursive(st.integers() | st.text(), st.lists), max_size=4
    ),
)
def test_any_object_is_named_and_numbered(
    core: Any, before: dict[str, Any], name: str, after: dict[str, Any]
) -> None:
    item = {**before, "type": name, **after, "type": name}  # noqa: F601
    item = {key: value for key, value in item.items() if not key.startswith("_sa")}
    rules = {"name_from": "type", "number_as": "n"}
    first, second = pushed(core, item, **rules).removesuffix("\n\n").split("\n", 1)
    assert first == f"event: {name}"
    assert json.loads(second.removeprefix("data: ")) == {**item, "n": 0}


class Kind(str, enum.Enum):
    DONE = "done"


class Word(str):
    """Its text is not what it says it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "other"


class Strange(dict[Any, Any]):
    def __getitem__(self, key: Any) -> Any:
        return "other"

    def get(self, key: Any, default: Any = None) -> Any:
        return "other"


class Renamed(BaseModel):
    kind: str = Field("k", serialization_alias="type")
    type: str = Field("t", serialization_alias="other")


class Shouted(BaseModel):
    type: str

    @field_serializer("type")
    def shout(self, value: str) -> str:
        return value.upper()


class Listed(BaseModel):
    @model_serializer
    def listed(self) -> dict[str, Any]:
        return {"n": True, "type": "by hand", "x": [{"type": "inner"}]}


# What the JSON says is what counts, however the item is made.
ODD = [
    {"type": Kind.DONE, "n": 1},
    {"type": Word("word"), "n": Word("9")},
    {Word("type"): "by a word", "n": 1},
    {Word("type"): "by a word", "type": "plain", "n": 1},
    Strange({"type": "mine", "n": [{"n": 2}]}),
    Strange({1: 2, "type": "mine"}),
    OrderedDict([("n", True), ("type", "ordered")]),
    {1: "x", "1": "y", None: 0, 2.5: 1, "type": "keys", "n": None},
    {"type": "nan", "n": float("nan"), "x": [math.inf]},
    {"x": {"type": "deep", "n": 5}, "n": 1.5, "type": "outer"},
    {"type": "\ud83d\udc0d", "n": 0},
    {"type": "ok", "n": "\ud800"},
    {"type": 'q"\\\t\u2028', "n": 10**30},
    {"type": "x" * 100_000, "n": datetime(2026, 1, 2)},
    {"_sa_state": object(), "type": "sql", "n": 1},
    {"type": "one", "x": object()},
    {"type": "a\nb", "n": object()},
    {"type": "a\rb", "n": 0},
    {"type": b"bytes"},
    {"type": b"\xff"},
    {"type": True},
    {"n": "no name"},
    {"type": "\udc0d\ud83d"},
    Renamed(),
    Shouted(type="loud"),
    Listed(),
    Data("data"),
    Whole(),
]


@pytest.mark.parametrize("rules", [{"number_as": "n"}, {}], ids=["numbered", "named"])
@pytest.mark.parametrize("item", ODD, ids=range(len(ODD)))
def test_p7_both_backends_name_the_event_as_the_json_does(item: Any, rules: Any) -> None:
    made = []
    for core in (pytest.importorskip("sserpent._core.compiled"), pure):
        try:
            made.append(pushed(core, item, name_from="type", buffer={"count": 41}, **rules))
        except (TypeError, ValueError) as error:
            made.append(f"{type(error).__name__}: {error}")
            continue
        first, second = made[-1].removesuffix("\n\n").split("\n")
        sent = json.loads(second.removeprefix("data: "))
        assert first == f"event: {sent['type']}"
        assert not rules or sent["n"] == 41
    assert made[0] == made[1]


def test_the_field_1_is_found_under_a_number(core: Any) -> None:
    assert (
        pushed(core, {1: "x"}, name_from="1", number_as="2")
        == 'event: x\ndata: {"1":"x","2":0}\n\n'
    )
    assert pushed(core, {1: "x", "1": "y"}, name_from="1").startswith("event: x\n")


def test_an_item_that_changes_while_it_is_written_is_named_as_it_was_written(core: Any) -> None:
    item: dict[str, Any] = {"type": "before"}

    class Changing(BaseModel):
        @model_serializer
        def changed(self) -> str:
            item["type"] = "after"
            return "x"

    item["x"] = Changing()
    first, second = pushed(core, item, name_from="type").removesuffix("\n\n").split("\n")
    assert first == f"event: {json.loads(second.removeprefix('data: '))['type']}"


def test_p5_an_event_with_certain_data_is_left_out(core: Any) -> None:
    done = core.ServerSentEvent(raw_data="[DONE]")
    theirs = fastapi.sse.ServerSentEvent(raw_data="[DONE]")
    with_blanks = core.ServerSentEvent(raw_data=" [DONE]\t\n")
    dumped = core.ServerSentEvent(data=DumpsItself("[DONE]"))
    kept = core.ServerSentEvent(data="[DONE]"), core.ServerSentEvent(raw_data="[DONE] x"), dumped
    items = done, {"a": 1}, *kept, theirs, with_blanks
    assert pushed(core, *items, leaves_out="[DONE]") == (
        'data: {"a":1}\n\ndata: "[DONE]"\n\ndata: [DONE] x\n\ndata: [DONE]\n\n'
    )


@pytest.mark.parametrize(
    ("ready", "kept"),
    [
        ("data: [DONE]\n\n", ""),
        ("data:[DONE]\r\n\r\ndata: a\r\rid: 1\ndata: [DONE]\n\n", "data: a\r\r"),
        ("data:   [DONE] \n\ndata: a\n\ndata\ndata:\t[DONE]\r\r", "data: a\n\n"),
        ("data:\ndata: [DONE]\ndata:\n\n", ""),
        ("data: [DONE]\ndata: x\n\n", "data: [DONE]\ndata: x\n\n"),
        ("data: [DONE]\n", "data: [DONE]\n"),
        (": [DONE]\n\n", ": [DONE]\n\n"),
    ],
)
def test_p5_it_is_left_out_of_what_is_framed_already(core: Any, ready: str, kept: str) -> None:
    framed = {"framed": True}
    assert pushed(core, ready, buffer=framed, leaves_out="[DONE]") == kept
    assert pushed(core, ready.encode(), buffer=framed, leaves_out="[DONE]") == kept


def test_p5_whether_the_last_event_was_left_out_is_known(core: Any) -> None:
    done = core.ServerSentEvent(raw_data="[DONE]")
    comment = core.ServerSentEvent(comment="no data")
    rules = core.ItemRules("Mine", leaves_out="[DONE]")
    buffer = core.Buffer(rules=rules, framed=True)
    steps = [
        (done, b"", True),
        ({"a": 1}, b'data: {"a":1}\n\n', False),
        (done, b'data: {"a":1}\n\n', True),
        (comment, b'data: {"a":1}\n\n', True),
        ("", b'data: {"a":1}\n\n', True),
        ("data: x\n\n", b"data: x\n\n", False),
        ("data: y\n\ndata: [DONE]\n\n: no data\n\n", b"data: y\n\n: no data\n\n", True),
        ("data: [DONE]\n\ndata: z\n\n", b"data: z\n\n", False),
        ("data: [DONE]\n\n", b"data: z\n\n", True),
    ]
    for takes in (False, True):
        for item, last, is_left_out in steps:
            buffer.push(item)
            assert buffer.kept()[1] == last
            assert buffer.kept()[3] is is_left_out
            if takes:
                buffer.take()
                assert buffer.kept()[1] == last
                assert buffer.kept()[3] is is_left_out
        buffer = core.Buffer(rules=rules, framed=True)


def test_p11_a_class_converts_its_items(core: Any) -> None:
    asked: list[Any] = []

    def convert(item: Any, number: int) -> Any:
        asked.append((item, number))
        return None if item == "skip" else {"is": item}

    framed = {"framed": True}
    items = 1, b"ready\n\n", bytearray(b"data: x\n\n"), None
    assert pushed(core, *items, buffer=framed, convert=convert) == (
        'data: {"is":1}\n\nready\n\ndata: x\n\ndata: {"is":null}\n\n'
    )
    assert asked == [(1, 0), (None, 3)]
    assert pushed(core, "skip", convert=convert) == ""


def test_a_schema_is_asked_before_the_rules(core: Any) -> None:
    adapter = TypeAdapter(Part)
    schema = core.ItemSchema(
        adapter.validator.validate_python, {}, adapter.serializer.to_json, {"exclude_none": True}
    )
    rules = {"name_from": "type", "number_as": "n"}
    assert pushed(core, {"text": "t"}, buffer={"item_schema": schema}, **rules) == (
        'event: part\ndata: {"type":"part","text":"t","extra":{"kept":null},"n":0}\n\n'
    )


def test_the_first_and_the_last_event_are_kept(core: Any) -> None:
    rules = core.ItemRules("Mine", keeps_first=True)
    buffer = core.Buffer(rules=rules, framed=True)
    assert buffer.kept() == (b"", b"", 0, False)
    buffer.push(core.ServerSentEvent(comment="no data"))
    buffer.push({"a": 1})
    assert buffer.kept() == (b'data: {"a":1}\n\n', b'data: {"a":1}\n\n', 2, False)
    buffer.take()
    buffer.push({"a": 2})
    buffer.push(core.ServerSentEvent(comment="no data"))
    assert buffer.kept() == (b'data: {"a":1}\n\n', b'data: {"a":2}\n\n', 4, False)
    buffer.take()
    assert buffer.kept()[1] == b'data: {"a":2}\n\n'
    buffer.push(b"data: 3\n\ndata: 4\n\n")
    assert buffer.kept()[1:] == (b"data: 3\n\ndata: 4\n\n", 6, False)
    buffer.append(b"data: last\n\n")
    assert buffer.kept()[1:] == (b"data: 3\n\ndata: 4\n\n", 6, False)
    assert buffer.take() == b"data: 3\n\ndata: 4\n\ndata: last\n\n"


def test_without_rules_nothing_is_kept(core: Any) -> None:
    buffer = core.Buffer()
    buffer.push({"a": 1})
    assert buffer.kept() == (b"", b"", 0, False)
