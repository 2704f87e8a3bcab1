"""Typed events: what a route declares is checked, sent under its name, and documented."""

# ruff: noqa: UP007, what `X | Y` makes is another object

import dataclasses
import json
import re
import sys
from collections.abc import AsyncIterable, Iterable
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar, Union

import fastapi
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import ResponseValidationError
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
)
from typing_extensions import TypeAliasType, TypedDict

import sserpent
from event_loops import asyncio_only
from sserpent import EventSourceResponse, Named, ServerSentEvent
from sserpent.channels import Channels, Subscription
from sserpent.client import EventStreamParser, iter_events

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Item(BaseModel):
    name: str
    price: Optional[float] = None  # noqa: UP045


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    meows: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    barks: int


class Page(BaseModel, Generic[T]):
    of: T


class Move(TypedDict):
    x: int
    y: int


@dataclasses.dataclass
class Closed:
    reason: str


Created = Annotated[Item, Named("created")]
Deleted = Annotated[int, Named("deleted")]
Changed = Annotated[Closed, Named("closed")]
Pet = Annotated[Annotated[Cat | Dog, Field(discriminator="kind")], Named("pet")]


def app_of(annotation: Any, items: list[Any], path: str = "/", **options: Any) -> FastAPI:
    """An application whose routes, async and sync, yield these items."""
    app = FastAPI()

    async def stream() -> Any:
        for item in items:
            yield item

    def sync_stream() -> Any:
        yield from items

    stream.__annotations__["return"] = AsyncIterable[annotation]
    sync_stream.__annotations__["return"] = Iterable[annotation]
    app.get(path, response_class=EventSourceResponse, **options)(stream)
    app.get(f"{path}sync", response_class=EventSourceResponse, **options)(sync_stream)
    return app


def received(app: FastAPI, path: str = "/") -> list[tuple[str, str]]:
    """What a client gets, the same from both routes."""
    with TestClient(app) as client:
        texts = [client.get(each).content for each in (path, f"{path}sync")]
    assert texts[0] == texts[1]
    return [(each.type, each.data) for each in EventStreamParser().feed(texts[0])]


CASES: list[tuple[str, Any, list[Any], list[tuple[str, Any]]]] = [
    ("one", Created, [Item(name="a")], [("created", {"name": "a", "price": None})]),
    (
        "a union",
        Union[Created, Deleted, Changed],
        [7, Item(name="a"), Closed("late")],
        [
            ("deleted", 7),
            ("created", {"name": "a", "price": None}),
            ("closed", {"reason": "late"}),
        ],
    ),
    (
        "values that are validated",
        Created | Deleted,
        [{"name": "a"}, "8"],
        [("created", {"name": "a", "price": None}), ("deleted", 8)],
    ),
    (
        "nested unions",
        Union[Annotated[Created | Deleted, "doc"], Changed],
        [7, Closed("x")],
        [("deleted", 7), ("closed", {"reason": "x"})],
    ),
    (
        "a discriminated union under one name",
        Union[Pet, Deleted],
        [Dog(barks=1), {"kind": "cat", "meows": 2}, 3],
        [
            ("pet", {"kind": "dog", "barks": 1}),
            ("pet", {"kind": "cat", "meows": 2}),
            ("deleted", 3),
        ],
    ),
    (
        "generics",
        Union[Annotated[Page[int], Named("ints")], Annotated[Page[str], Named("texts")]],
        [Page[str](of="a"), Page[int](of=1)],
        [("texts", {"of": "a"}), ("ints", {"of": 1})],
    ),
    (
        "a TypedDict and a constrained type",
        Union[Annotated[Move, Named("move")], Annotated[int, Field(gt=0), Named("count")]],
        [{"x": 1, "y": 2}, 5],
        [("move", {"x": 1, "y": 2}), ("count", 5)],
    ),
    (
        "events",
        Union[ServerSentEvent[Item, Literal["item"]], ServerSentEvent[Closed, Literal["closed"]]],
        [
            ServerSentEvent(data=Item(name="a"), event="item", id="1"),
            ServerSentEvent(data={"reason": "x"}, event="closed"),
        ],
        [("item", {"name": "a", "price": None}), ("closed", {"reason": "x"})],
    ),
    (
        "one type of event under two names",
        ServerSentEvent[int, Literal["up", "down"]],
        [ServerSentEvent(data=1, event="down"), ServerSentEvent(data=2, event="up")],
        [("down", 1), ("up", 2)],
    ),
    (
        "events of any name",
        ServerSentEvent[int],
        [ServerSentEvent(data=1), ServerSentEvent(data="2", event="x")],
        [("message", 1), ("x", 2)],
    ),
    (
        "values and events",
        Union[Created, ServerSentEvent[int, Literal["count"]]],
        [
            Item(name="a"),
            ServerSentEvent(data=1, event="count"),
            ServerSentEvent(data={"name": "b"}, event="created", id="7"),
        ],
        [
            ("created", {"name": "a", "price": None}),
            ("count", 1),
            ("created", {"name": "b", "price": None}),
        ],
    ),
]


@pytest.mark.parametrize(
    ("annotation", "items", "sent"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_each_form(annotation: Any, items: list[Any], sent: list[tuple[str, Any]]) -> None:
    got = received(app_of(annotation, items))
    assert [(name, json.loads(data)) for name, data in got] == sent


def test_raw_data_and_comments_pass() -> None:
    items = [
        ServerSentEvent(raw_data="[DONE]", event="end"),
        ServerSentEvent(comment="hello"),
        Item(name="a"),
    ]
    got = received(app_of(Union[Created, Deleted], items))
    assert [name for name, _ in got] == ["end", "created"]


def test_it_is_what_a_plain_item_type_is_where_there_is_one_type() -> None:
    items = [Item(name="a"), {"name": "b", "price": "2"}]
    options = {"response_model_exclude_none": True}
    plain = received(app_of(Item, items, **options))
    named = received(app_of(Created, items, **options))
    assert [data for _, data in named] == [data for _, data in plain]
    assert plain[0] == ("message", '{"name":"a"}')
    assert named[0] == ("created", '{"name":"a"}')


def test_a_hundred_kinds_of_events() -> None:
    models = [create_model(f"Model{n}", **{f"field{n}": (int, ...)}) for n in range(100)]
    kinds = [Annotated[model, Named(f"event{n}")] for n, model in enumerate(models)]
    app = app_of(Union[tuple(kinds)], [models[99](field99=1), {"field50": 2}])
    assert received(app) == [("event99", '{"field99":1}'), ("event50", '{"field50":2}')]
    assert len(events_in(app)) == 100


def test_the_class_of_a_value_decides_where_several_types_would_do() -> None:
    class Twin(Item):
        pass

    items = [Twin(name="a"), Item(name="b")]
    got = received(app_of(Union[Created, Annotated[Twin, Named("twin")]], items))
    assert [name for name, _ in got] == ["twin", "created"]


def test_options_of_the_route_count_for_each_kind_of_event() -> None:
    annotation = Union[
        Created, Annotated[Cat, Named("cat")], ServerSentEvent[Item, Literal["item"]]
    ]
    items = [
        Item(name="a", price=1),
        Cat(meows=2),
        ServerSentEvent(data=Item(name="b"), event="item"),
    ]
    got = received(app_of(annotation, items, response_model_exclude={"price", "kind"}))
    assert [data for _, data in got] == ['{"name":"a"}', '{"meows":2}', '{"name":"b"}']


def test_a_model_with_a_serializer_of_its_own() -> None:
    class Celsius(BaseModel):
        degrees: int

        @model_serializer
        def text(self) -> str:
            return f"{self.degrees} °C"

    annotation = Union[Annotated[Celsius, Named("celsius")], Deleted]
    assert received(app_of(annotation, [Celsius(degrees=7)])) == [("celsius", '"7 °C"')]


@pytest.mark.parametrize("others", [(), (Deleted,)], ids=["one", "a union"])
def test_a_value_is_validated_once(others: Any) -> None:
    validated = []

    class Counted(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def count(cls, number: int) -> int:
            validated.append(number)
            return number

    annotation = Union[(Annotated[Counted, Named("counted")], *others)]
    received(app_of(annotation, [{"number": 1}]))
    assert validated == [1, 1]  # one for each route
    received(app_of(annotation, [Counted.model_construct(number=1)]))
    assert validated == [1, 1]


def test_a_value_that_can_be_read_only_once() -> None:
    annotation = Union[Annotated[list[int], Named("list")], Deleted]
    for path in ("/", "/sync"):
        app = app_of(annotation, [iter([1, 2])])
        assert TestClient(app).get(path).text == "event: list\ndata: [1,2]\n\n"


class DeclaredEvent(ServerSentEvent[Item, Literal["named"]]):
    pass


class Of(ServerSentEvent[T, Literal["of"]], Generic[T]):
    pass


class Plain(ServerSentEvent):
    pass


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (
            DeclaredEvent,
            DeclaredEvent(data={"name": "a"}, event="named"),
            [
                DeclaredEvent(data=1, event="named"),
                DeclaredEvent(data={"name": "a"}, event="other"),
            ],
        ),
        (
            Of[int],
            Of(data=1, event="of"),
            [Of(data="x", event="of"), Of(data=1, event="other")],
        ),
        (
            Plain[int, Literal["plain"]],
            Plain(data=1, event="plain"),
            [Plain(data="x", event="plain"), Plain(data=1, event="other")],
        ),
    ],
    ids=["of a declared event", "generic", "subscripted"],
)
def test_subclasses_of_events(annotation: Any, good: Any, bad: list[Any]) -> None:
    assert [name for name, _ in received(app_of(annotation, [good]))] == [good.event]
    for each in bad:
        with pytest.raises(ResponseValidationError):
            received(app_of(annotation, [each]))


def test_a_plain_subclass_declares_nothing() -> None:
    event = Plain(data=1, event="any")
    assert received(app_of(Plain, [event])) == [("any", "1")]


def test_an_alias_with_parameters() -> None:
    alias = TypeAliasType("alias", Union[Annotated[T, Named("of")], Deleted], type_params=(T,))
    app = app_of(alias[Item], [Item(name="a"), 7])
    assert [name for name, _ in received(app)] == ["of", "deleted"]


def test_dependencies_that_are_overridden() -> None:
    app = FastAPI()

    def number() -> int:
        return 1

    @app.get("/", response_class=EventSourceResponse)
    async def stream(number: Annotated[int, Depends(number)]) -> AsyncIterable[Deleted]:
        yield number

    app.dependency_overrides[number] = lambda: 42
    assert TestClient(app).get("/").text == "event: deleted\ndata: 42\n\n"


# What is not declared


@pytest.mark.parametrize(
    ("annotation", "bad", "names"),
    [
        (Union[Created, Deleted], "text", "created"),
        (Union[Created, Deleted], ServerSentEvent(data=1, event="other"), "other"),
        (Union[Created, Deleted], ServerSentEvent(data="x", event="deleted"), "deleted"),
        (Deleted, "text", "deleted"),
        (ServerSentEvent[int, Literal["up"]], ServerSentEvent(data="x", event="up"), "up"),
        (ServerSentEvent[int, Literal["up"]], ServerSentEvent(data=1, event="down"), "down"),
        (ServerSentEvent[int, Literal["up"]], ServerSentEvent(data=1), "None"),
        (ServerSentEvent[int, Literal["up"]], 1, "int"),
        (ServerSentEvent[int], ServerSentEvent(data="x"), "int"),
    ],
)
def test_what_is_not_declared_is_refused_and_nothing_of_it_sent(
    annotation: Any, bad: Any, names: str
) -> None:
    app = app_of(annotation, [bad])
    with TestClient(app) as client:
        for path in ("/", "/sync"):
            with pytest.raises(ResponseValidationError) as caught:
                client.get(path)
            assert names in str(caught.value)
    silent = TestClient(app, raise_server_exceptions=False)
    assert silent.get("/").status_code == 500


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Union[Created, Annotated[int, Named("created")]], "two events are named 'created'"),
        (Union[Created, int], r'int has no name, .*: write Annotated\[int, Named\("..."\)\]$'),
        (
            Union[Created, ServerSentEvent],
            r'ServerSentEvent has no name, .*: write ServerSentEvent\[Any, Literal\["..."\]\]$',
        ),
        (
            Union[Created, ServerSentEvent[int]],
            r'ServerSentEvent\[int\] has no name, .*: write ServerSentEvent\[int, Literal\["...',
        ),
        (Union[Created, Annotated[Item, Named("other")]], "'created' .* or 'other'"),
        (Union[Created, Annotated[Any, Named("other")]], "a value does not tell"),
        (Annotated[Item, Named("a"), Named("b")], "more than one name: a, b"),
        (ServerSentEvent[int, int], "must be a Literal, not int: write"),
        (
            ServerSentEvent[Item, "a"],
            r"must be a Literal, not 'a': write ServerSentEvent\[Item, Literal\['a'\]\]$",
        ),
        (Union[Deleted, ServerSentEvent[Item, "a b"]], r"Literal, not 'a b': write"),  # noqa: F722
        (ServerSentEvent[int, Literal["a\nb"]], "single line"),
        (ServerSentEvent[int, Literal[""]], "must not be empty"),
        (Annotated[ServerSentEvent[int], Named("a")], "'a' names an event"),
        (ServerSentEvent[int, Literal["a"], str], "takes the type of its data"),
    ],
)
def test_a_bad_declaration_is_refused_when_the_route_is_made(annotation: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^The return annotation of .*stream: .*{words}"):
        app_of(annotation, [])


@pytest.mark.parametrize("annotation", [Created, Union[Created, Deleted]], ids=["one", "a union"])
@asyncio_only
async def test_a_value_that_fits_no_event_is_told_their_names(annotation: Any) -> None:
    channel = Channels().channel("items", annotation)
    with pytest.raises(ValidationError) as caught:
        await channel.publish({"nme": "a"})
    first, *_ = str(caught.value).splitlines()
    assert re.fullmatch(r"\d validation errors? for event 'created'( or 'deleted')?", first)
    assert "partial" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error"),
    [("a\nb", ValueError), ("a\rb", ValueError), ("", ValueError), (7, TypeError)],
)
def test_a_bad_name_is_refused(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Named(name)


# Where annotations come from


def test_an_annotation_that_is_a_text() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def stream() -> "AsyncIterable[Created | Deleted]":
        yield Item(name="a")

    @app.get("/inner", response_class=EventSourceResponse)
    async def inner() -> AsyncIterable[ServerSentEvent["Item", Literal["item"]]]:
        yield ServerSentEvent(data={"name": "a"}, event="item")

    client = TestClient(app)
    assert client.get("/").text.startswith("event: created\n")
    assert client.get("/inner").text.startswith("event: item\n")
    assert events_in(app, "/inner")[0]["properties"]["data"]["contentSchema"] == {
        "$ref": "#/components/schemas/Item"
    }


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_a_type_alias_statement() -> None:
    namespace: dict[str, Any] = dict(globals())
    exec("type Event = Created | Deleted", namespace)
    got = received(app_of(namespace["Event"], [7, Item(name="a")]))
    assert [name for name, _ in got] == ["deleted", "created"]


def test_routers_and_default_response_classes() -> None:
    router = APIRouter(prefix="/inner", default_response_class=EventSourceResponse)

    @router.get("/items")
    async def items() -> AsyncIterable[Created | Deleted]:
        yield 7

    app = FastAPI()
    app.include_router(router, prefix="/outer")
    assert TestClient(app).get("/outer/inner/items").text == "event: deleted\ndata: 7\n\n"
    assert [
        each["properties"]["event"]["const"] for each in events_in(app, "/outer/inner/items")
    ] == [
        "created",
        "deleted",
    ]


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sserpent._fastapi.acceleration._accelerated", False)
    sserpent.accelerate()


@pytest.mark.usefixtures("accelerated")
def test_routes_of_fastapi_sse_that_are_accelerated() -> None:
    app = FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def items() -> AsyncIterable[Created | Deleted]:
        yield 7

    assert TestClient(app).get("/").text == "event: deleted\ndata: 7\n\n"
    assert [each["properties"]["event"]["const"] for each in events_in(app)] == [
        "created",
        "deleted",
    ]


def test_routes_of_fastapi_sse_that_are_not_are_described_as_they_are_served() -> None:
    app = FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def items() -> AsyncIterable[Created | Deleted]:
        yield 7

    (event,) = events_in(app)
    assert "const" not in event["properties"]["event"]
    assert TestClient(app).get("/").text == "data: 7\n\n"


# The document


def events_in(app: FastAPI, path: str = "/") -> list[Any]:
    response = app.openapi()["paths"][path]["get"]["responses"]["200"]
    schema = response["content"]["text/event-stream"]["itemSchema"]
    return list(schema["oneOf"]) if "oneOf" in schema else [schema]


def test_the_document_has_each_event() -> None:
    app = app_of(Union[Created, Pet, ServerSentEvent[int, Literal["count"]]], [])
    for path in ("/", "/sync"):
        created, pet, count = events_in(app, path)
        assert created["properties"]["event"] == {"type": "string", "const": "created"}
        assert created["required"] == ["data", "event"]
        data = created["properties"]["data"]
        assert data["contentMediaType"] == "application/json"
        assert data["contentSchema"] == {"$ref": "#/components/schemas/Item"}
        assert "id" not in created["properties"]
        assert "oneOf" in pet["properties"]["data"]["contentSchema"]
        assert count["properties"]["data"]["contentSchema"] == {"type": "integer"}
        assert {"id", "retry"} <= count["properties"].keys()
        for each in (created, pet, count):
            Draft202012Validator.check_schema(each)
    schemas = app.openapi()["components"]["schemas"]
    assert {"Item", "Cat", "Dog"} <= schemas.keys()


def test_an_event_of_the_document_describes_what_is_sent() -> None:
    app = app_of(Union[Created, Deleted], [Item(name="a")])
    document = app.openapi()
    [schema, _] = events_in(app)
    name, data = received(app)[0]
    Draft202012Validator({**schema, "components": document["components"]}).validate(
        {"event": name, "data": data}
    )


def test_other_responses_of_the_route_are_documented_as_they_are() -> None:
    schemas = [{"schema": {"type": "string"}}, {"itemSchema": {"type": "string"}}]
    responses: Any = {
        206 + number: {"description": "", "content": {"text/event-stream": schema}}
        for number, schema in enumerate(schemas)
    }
    app = app_of(Created, [], responses=responses)
    assert events_in(app)[0]["properties"]["event"]["const"] == "created"
    found = app.openapi()["paths"]["/"]["get"]["responses"]
    assert [found[code]["content"]["text/event-stream"] for code in ("206", "207")] == schemas


def test_webhooks_callbacks_and_applications_within() -> None:
    app, inner, callbacks = FastAPI(), FastAPI(), APIRouter()

    def stream() -> Iterable[Deleted]:
        yield 7

    app.webhooks.post("hook", response_class=EventSourceResponse)(stream)
    callbacks.post("{$url}", response_class=EventSourceResponse)(stream)
    app.post("/", response_class=EventSourceResponse, callbacks=callbacks.routes)(stream)
    inner.get("/", response_class=EventSourceResponse)(stream)
    app.mount("/inner", inner)
    document = app.openapi()
    route = document["paths"]["/"]["post"]
    for operation in (
        document["webhooks"]["hook"]["post"],
        route,
        route["callbacks"]["stream"]["{$url}"]["post"],
        inner.openapi()["paths"]["/"]["get"],
    ):
        schema = operation["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]
        assert schema["properties"]["event"]["const"] == "deleted"
    assert TestClient(app).get("/inner/").text == "event: deleted\ndata: 7\n\n"


def test_the_document_is_the_same_each_time() -> None:
    app = app_of(Union[Created, Pet], [])
    first = json.dumps(app.openapi())
    app.openapi_schema = None
    assert json.dumps(app.openapi()) == first


@pytest.mark.parametrize("separate", [True, False])
def test_the_types_are_documented_as_those_of_plain_items(separate: bool) -> None:
    documents = []
    for annotation in (Item, Created):
        app = FastAPI(separate_input_output_schemas=separate)

        async def stream(item: Any) -> Any:
            yield item

        stream.__annotations__.update({"item": Item, "return": AsyncIterable[annotation]})
        app.post("/", response_class=EventSourceResponse)(stream)
        documents.append(app.openapi()["components"])
    assert documents[0] == documents[1]


def test_other_routes_are_documented_as_before() -> None:
    app = app_of(Item, [])
    [schema] = events_in(app)
    assert "const" not in schema["properties"]["event"]
    assert schema["required"] == ["data"]


# Channels, runs, and the way back


def test_the_values_come_back() -> None:
    app = app_of(Union[Created, Deleted], [Item(name="a"), 7])
    content = TestClient(app).get("/").content
    read = list(iter_events([content], type={"created": Item, "deleted": int}))
    assert read == [Item(name="a"), 7]


@asyncio_only
async def test_channels_that_declare_events() -> None:
    channels = Channels()
    items = channels.channel("items", Union[Created, Deleted])
    app = FastAPI()

    @app.get("/items", response_class=EventSourceResponse)
    async def read() -> Subscription[Created | Deleted]:
        return items.subscribe()

    documented = [each["properties"] for each in events_in(app, "/items")]
    assert [each["event"]["const"] for each in documented] == ["created", "deleted"]
    assert all({"id", "retry"} <= each.keys() for each in documented)

    await items.publish(Item(name="a"))
    await items.publish("7")
    await items.publish({"name": "b"}, event="created")
    await items.publish(ServerSentEvent(data=8, event="deleted"))
    with pytest.raises(ValidationError):
        await items.publish({"x": 1}, event="created")
    with pytest.raises(ValidationError):
        await items.publish("text")
    with pytest.raises(ValueError, match="'other' is not declared"):
        await items.publish(7, event="other")
    async with items.listen(start="earliest") as events:
        got = [await events.__anext__() for _ in range(4)]
    assert [(each.event, each.data) for each in got] == [
        ("created", Item(name="a")),
        ("deleted", 7),
        ("created", Item(name="b")),
        ("deleted", 8),
    ]


def test_runs_that_declare_events() -> None:
    channels = Channels()
    runs = channels.runs("answers", Union[Created, Deleted])
    app = FastAPI(lifespan=channels.lifespan)

    async def answer() -> AsyncIterable[Any]:
        yield 7
        yield "text"

    @app.post("/", response_class=EventSourceResponse)
    async def ask() -> Any:
        return (await runs.start(answer())).follow()

    with TestClient(app) as client:
        text = client.post("/").text
    assert "event: deleted\ndata: 7\n" in text
    assert '"end":"error"' in text
