"""Methods that someone has replaced, on a class or on an object: called as `fastapi.sse` calls
them. Both backends."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import fastapi.sse
import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict

# Each over both backends, by the fixture `core` alone.
pytestmark = pytest.mark.once


class Item(BaseModel):
    value: int = 1


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


def pushed(core: ModuleType, item: Any) -> bytes:
    buffer = core.Buffer()
    buffer.push(item)
    taken: bytes = buffer.take()
    return taken


def check_event(core: ModuleType, model: BaseModel) -> None:
    expected = fastapi.sse.format_sse_event(data_str=model.model_dump_json())
    event = core.ServerSentEvent(data=model)
    assert event.encode() == pushed(core, event) == expected
    assert pushed(core, fastapi.sse.ServerSentEvent(data=model)) == expected


@pytest.mark.parametrize("first", ["the plain one", "the patched one"])
def test_a_dump_json_of_the_instance(core: ModuleType, first: str) -> None:
    class Fresh(Item):
        """A class that the core has not seen."""

    plain, patched = Fresh(), Fresh()
    patched.__dict__["model_dump_json"] = lambda: '"of the instance"'
    assert patched.model_dump_json() == '"of the instance"'
    models = [plain, patched] if first == "the plain one" else [patched, plain]
    for model in models * 2:
        check_event(core, model)


@pytest.mark.parametrize("first", ["the plain one", "the patched one"])
def test_a_dump_of_the_instance(core: ModuleType, first: str) -> None:
    class Fresh(Item):
        """A class that the core has not seen."""

    plain, patched = Fresh(), Fresh()
    patched.__dict__["model_dump"] = lambda **_: {"of": "the instance"}
    assert jsonable_encoder(patched) == {"of": "the instance"}
    models = [plain, patched] if first == "the plain one" else [patched, plain]
    for model in models * 2:
        expected = (
            b'data: {"value":1}\n\n' if model is plain else b'data: {"of":"the instance"}\n\n'
        )
        assert pushed(core, model) == expected
        assert pushed(core, [model]) == expected.replace(b"{", b"[{").replace(b"}", b"}]")
        check_event(core, model)


def test_extra_values_of_these_names(core: ModuleType) -> None:
    # They are no attributes: the class's methods come before them.
    model = Extra.model_validate({"model_dump": 1, "model_dump_json": 2})
    check_event(core, model)
    assert pushed(core, model) == b'data: {"model_dump":1,"model_dump_json":2}\n\n'


def test_a_dump_json_of_a_class(core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh(Item):
        """A class that the core has not seen."""

    check_event(core, Fresh())
    with monkeypatch.context() as patch:
        patch.setattr(Fresh, "model_dump_json", lambda self: '"patched"')
        assert core.ServerSentEvent(data=Fresh()).encode() == b'data: "patched"\n\n'
        check_event(core, Fresh())
    check_event(core, Fresh())


def test_a_dump_json_of_pydantics_base_class(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BaseModel.model_dump_json
    monkeypatch.setattr(BaseModel, "model_dump_json", lambda self: original(self).replace("1", "2"))
    assert core.ServerSentEvent(data=Item()).encode() == b'data: {"value":2}\n\n'
    check_event(core, Item())


@pytest.mark.parametrize("of", ["fastapi", "ours"])
def test_an_init_of_the_event_class(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    event_class: Any = fastapi.sse.ServerSentEvent if of == "fastapi" else core.ServerSentEvent
    original, seen = event_class.__init__, []

    def patched(self: Any, **fields: Any) -> None:
        seen.append(fields)
        if of == "fastapi":
            original(self, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(event_class, "__init__", patched)
        event = event_class(raw_data="a", id=None)
        event_class(event="b")
        assert seen == [{"raw_data": "a", "id": None}, {"event": "b"}]
        assert pushed(core, event) == b"data: a\n\n"
    event_class(event="c")
    assert len(seen) == 2
