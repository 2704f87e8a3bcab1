"""The whole way: a model, through the buffer, over a wire that cuts it anywhere, through a reader
that knows only the standard, and back to an equal model. Both backends.

`make fuzz` runs this, with the other property tests, for longer.
"""

from __future__ import annotations

import datetime
import itertools
import uuid
from decimal import Decimal
from types import ModuleType
from typing import Any, Literal

import httpx
import httpx_sse
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sse_parser import Event, parse
from sserpent import KEEPALIVE_COMMENT
from strategies import ids, none_or, retries, single_lines, texts

# Each over both backends, by the fixture `core` alone.
pytestmark = pytest.mark.once


class Position(BaseModel):
    latitude: float = Field(allow_inf_nan=False)
    label: str | None = None


class Ship(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    kind: Literal["ship"] = "ship"
    name: str = Field(alias="shipName")
    tonnage: Decimal = Field(max_digits=20)
    crew: int
    launched: datetime.datetime
    voyage: datetime.timedelta
    identity: uuid.UUID
    flags: frozenset[str]
    route: list[Position]
    cargo: dict[str, int | str | None]
    log: bytes
    parent: Ship | None = None


_positions = st.builds(
    Position, latitude=st.floats(allow_nan=False, allow_infinity=False), label=none_or(texts)
)


def _ships(parents: st.SearchStrategy[Any]) -> st.SearchStrategy[Ship]:
    return st.builds(
        Ship,
        name=texts,
        tonnage=st.decimals(-(10**9), 10**9, places=3),
        crew=st.integers(),
        launched=st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc)),
        voyage=st.timedeltas(datetime.timedelta(days=-10_000), datetime.timedelta(days=10_000)),
        identity=st.uuids(),
        flags=st.frozensets(texts, max_size=2),
        route=st.lists(_positions, max_size=2),
        cargo=st.dictionaries(texts, st.integers() | texts | st.none(), max_size=2),
        log=texts.map(str.encode),
        parent=parents,
    )


ships = _ships(st.none() | _ships(st.none()))
metadata = st.fixed_dictionaries(
    {},
    optional={
        "event": none_or(single_lines),
        "id": none_or(ids),
        "retry": none_or(retries),
        "comment": none_or(texts),
    },
)
_adapter = TypeAdapter(Ship)


def buffer_of(core: ModuleType) -> Any:
    """An buffer as a route with the annotation `AsyncIterable[Ship]` has it."""
    return core.Buffer(
        core.ItemSchema(
            _adapter.validator.validate_python,
            {"from_attributes": True},
            _adapter.serializer.to_json,
            {"by_alias": True},
        )
    )


@given(models=st.lists(ships, max_size=4))
def test_items_of_a_declared_type(core: ModuleType, models: list[Ship]) -> None:
    buffer = buffer_of(core)
    for model in models:
        buffer.push(model)
    read = [Ship.model_validate_json(event.data) for event in parse(buffer.take()).events]
    assert read == models


@given(sent=st.lists(st.tuples(ships, metadata), max_size=4), pinged=st.booleans())
def test_models_in_events_between_keep_alives(
    core: ModuleType, sent: list[tuple[Ship, dict[str, Any]]], pinged: bool
) -> None:
    buffer = buffer_of(core)
    ping = KEEPALIVE_COMMENT if pinged else b""
    stream = ping
    for model, fields in sent:
        buffer.push(core.ServerSentEvent(data=model, **fields))
        stream += buffer.take() + ping
    events = parse(stream).events
    last_id = ""
    assert len(events) == len(sent)
    for (model, fields), event in zip(sent, events, strict=True):
        last_id = last_id if fields.get("id") is None else fields["id"]
        dumped = event.data
        assert event == Event(dumped, fields.get("event") or "message", last_id)
        assert Ship.model_validate_json(dumped, by_name=True) == model


@given(models=st.lists(ships, min_size=1, max_size=3), cuts=st.lists(st.integers(0, 2000)))
def test_over_a_wire_that_cuts_anywhere(
    core: ModuleType, models: list[Ship], cuts: list[int]
) -> None:
    buffer = buffer_of(core)
    for model in models:
        buffer.push(model)
    stream = buffer.take()
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    chunks = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert [Ship.model_validate_json(event.data) for event in read_chunks(chunks)] == models


def read_chunks(chunks: list[bytes]) -> list[httpx_sse.ServerSentEvent]:
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=iter(chunks)
    )
    return list(httpx_sse.EventSource(response).iter_sse())


@given(models=st.lists(ships, min_size=1, max_size=2), cut=st.integers(1))
def test_what_a_cut_leaves_are_the_models_before_it(
    core: ModuleType, models: list[Ship], cut: int
) -> None:
    buffer = buffer_of(core)
    for model in models:
        buffer.push(model)
    stream = buffer.take()
    whole = stream[: cut % len(stream)].decode(errors="ignore").encode()
    read = [Ship.model_validate_json(event.data) for event in parse(whole).events]
    assert read == models[: len(read)]
    assert len(read) < len(models)
