"""Routes: whatever works with `fastapi.sse` works with sserpent, with equal events, and what
FastAPI's class cannot do works too."""

import dataclasses
import functools
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Annotated, Any, Generic, TypeVar

import fastapi
import fastapi.sse
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Response
from fastapi.exceptions import ResponseValidationError
from fastapi.testclient import TestClient
from httpx_sse import ServerSentEvent as Received
from httpx_sse._decoders import SSEDecoder
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

import sserpent
from sserpent import EventSourceResponse, ServerSentEvent

FASTAPI = tuple(map(int, fastapi.__version__.split(".")[:3]))


def events(response: Any) -> list[Received]:
    """What an independent client reads from a response."""
    decoder = SSEDecoder()
    received = (decoder.decode(line) for line in response.text[:-1].split("\n"))
    return [event for event in received if event is not None]


def payloads(response: Any) -> list[Any]:
    return [json.loads(event.data) for event in events(response)]


class Item(BaseModel):
    name: str
    price: float = 1.0
    note: str | None = None
    secret: str = Field(default="hidden", alias="theSecret")


# FastAPI before 0.140.12 breaks lines at U+2028, which clients do not.
NOTE = "ü\n\u2028" if FASTAPI >= (0, 140, 12) else "ü\n"
ITEMS = [Item(name="Plumbus"), Item(name="Portal Gun", price=999.99, note=NOTE)]


@dataclasses.dataclass
class Flavour:
    """The two libraries, to be put in the same routes."""

    response: Any
    event: Any


FLAVOURS = {
    "fastapi": Flavour(fastapi.sse.EventSourceResponse, fastapi.sse.ServerSentEvent),
    "sserpent": Flavour(EventSourceResponse, ServerSentEvent),
}


def both(build: Any) -> tuple[TestClient, TestClient]:
    """A client for `build(flavour)` with each library, FastAPI's first."""
    return tuple(TestClient(build(flavour)) for flavour in FLAVOURS.values())  # type: ignore[return-value]


def build_kinds(flavour: Flavour) -> FastAPI:
    app = FastAPI()
    event = flavour.event

    @app.get("/async", response_class=flavour.response)
    async def annotated() -> AsyncIterable[Item]:
        for item in ITEMS:
            yield item

    @app.get("/sync", response_class=flavour.response)
    def annotated_sync() -> Iterable[Item]:
        yield from ITEMS

    @app.get("/plain", response_class=flavour.response)
    async def plain():  # type: ignore[no-untyped-def]
        for item in ITEMS:
            yield item

    @app.get("/plain-sync", response_class=flavour.response)
    def plain_sync():  # type: ignore[no-untyped-def]
        yield from ITEMS

    @app.get("/dicts", response_class=flavour.response)
    async def from_dicts() -> AsyncIterator[Item]:
        yield {"name": "from a dict", "theSecret": "s"}  # type: ignore[misc]

    @app.get("/any", response_class=flavour.response)
    async def anything() -> AsyncGenerator[Any, None]:
        yield {"a": [1, 2.5, None, True, "ü"]}

    @app.get("/events", response_class=flavour.response)
    async def made_events() -> AsyncIterable[event]:  # type: ignore[valid-type]
        yield event(comment="a comment")
        yield event(data=ITEMS[1], event="item", id="1", retry=5000)
        yield event(raw_data="two\nlines", id="2")
        yield event(data="text")

    @app.get("/mixed", response_class=flavour.response)
    async def mixed() -> AsyncIterable[Item]:
        yield ITEMS[0]
        yield event(data={"not": "an item"}, event="other")  # type: ignore[misc]

    @app.get("/empty", response_class=flavour.response)
    async def empty() -> AsyncIterable[Item]:
        return
        yield

    @app.post("/post", response_class=flavour.response)
    async def post(item: Item) -> AsyncIterable[event]:  # type: ignore[valid-type]
        for word in item.name.split():
            yield event(data=word, event="token")
        yield event(raw_data="[DONE]", event="done")

    @app.put("/put/{number}", response_class=flavour.response, status_code=202)
    async def put(number: int, q: int = 1) -> AsyncIterable[int]:
        yield number + q

    @app.get("/resume", response_class=flavour.response)
    async def resume(
        last_event_id: Annotated[int | None, Header()] = None,
    ) -> AsyncIterable[event]:  # type: ignore[valid-type]
        for number in range(-1 if last_event_id is None else last_event_id, 3):
            yield event(data=number + 1, id=str(number + 1))

    return app


REQUESTS = [
    ("GET", "/async", {}),
    ("GET", "/sync", {}),
    ("GET", "/plain", {}),
    ("GET", "/plain-sync", {}),
    ("GET", "/dicts", {}),
    ("GET", "/any", {}),
    ("GET", "/events", {}),
    ("GET", "/mixed", {}),
    ("GET", "/empty", {}),
    ("POST", "/post", {"json": {"name": "to be or not"}}),
    ("POST", "/post", {"json": {}}),
    ("PUT", "/put/4?q=3", {}),
    ("PUT", "/put/x", {}),
    ("GET", "/resume", {"headers": {"Last-Event-ID": "1"}}),
]


@pytest.mark.parametrize(("method", "path", "options"), REQUESTS)
def test_a_route_sends_what_it_sends_with_fastapi(
    method: str, path: str, options: dict[str, Any]
) -> None:
    theirs, ours = (client.request(method, path, **options) for client in both(build_kinds))
    assert ours.status_code == theirs.status_code or FASTAPI < (0, 140, 13)
    assert dict(ours.headers).keys() == dict(theirs.headers).keys()
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    if ours.status_code == 422:
        assert ours.json() == theirs.json()
        return
    assert ours.status_code == (202 if method == "PUT" else 200)
    assert len(events(ours)) == len(events(theirs))
    for our, their in zip(events(ours), events(theirs), strict=True):
        assert (our.event, our.id, our.retry) == (their.event, their.id, their.retry)
        assert our.data == their.data or json.loads(our.data) == json.loads(their.data)


def test_lines_break_where_clients_break_them_on_every_fastapi() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def route() -> AsyncIterable[str]:
        yield "a\u2028b\x0bc\x85d"

    assert TestClient(app).get("/").content.decode() == 'data: "a\u2028b\\u000bc\x85d"\n\n'


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"response_model_include": {"name", "note"}},
        {"response_model_exclude": {"price"}},
        {"response_model_by_alias": False},
        {"response_model_exclude_unset": True},
        {"response_model_exclude_defaults": True},
        {"response_model_exclude_none": True},
    ],
)
@pytest.mark.parametrize("sync", [True, False])
def test_response_model_options_are_fastapis(options: dict[str, Any], sync: bool) -> None:
    def build(flavour: Flavour) -> FastAPI:
        app = FastAPI()

        @app.get("/async", response_class=flavour.response, **options)
        async def route() -> AsyncIterable[Item]:
            for item in ITEMS:
                yield item

        @app.get("/sync", response_class=flavour.response, **options)
        def route_sync() -> Iterable[Item]:
            yield from ITEMS

        return app

    theirs, ours = (client.get("/sync" if sync else "/async") for client in both(build))
    assert payloads(ours) == payloads(theirs)
    assert len(payloads(ours)) == 2


def test_openapi_is_equal_document_for_document() -> None:
    def build(flavour: Flavour) -> FastAPI:
        app = build_kinds(flavour)

        @app.get("/union", response_class=flavour.response)
        async def union() -> AsyncIterable[flavour.event | Item]:  # type: ignore[name-defined]
            yield ITEMS[0]

        return app

    theirs, ours = (client.get("/openapi.json").json() for client in both(build))
    assert "/async" in ours["paths"]
    assert ours == theirs


def test_a_union_with_the_event_class_takes_both() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def union() -> AsyncIterable[ServerSentEvent | Item]:
        yield ServerSentEvent(raw_data="text")
        yield ITEMS[0]

    data = [event.data for event in events(TestClient(app).get("/"))]
    assert data[0] == "text"
    assert json.loads(data[1])["name"] == "Plumbus"


# Ways to declare


def test_default_response_class_of_an_app_and_a_router() -> None:
    app = FastAPI(default_response_class=EventSourceResponse)
    router = APIRouter(default_response_class=EventSourceResponse)

    @app.get("/app")
    async def of_app() -> AsyncIterable[Item]:
        yield ITEMS[0]

    @router.get("/router")
    def of_router() -> Iterable[Item]:
        yield ITEMS[1]

    app.include_router(router, prefix="/sub")
    client = TestClient(app)
    assert payloads(client.get("/app"))[0]["name"] == "Plumbus"
    assert payloads(client.get("/sub/router"))[0]["name"] == "Portal Gun"


def test_included_routers_and_mounted_apps_keep_the_item_type() -> None:
    inner = APIRouter()

    @inner.get("/items", response_class=EventSourceResponse)
    async def items() -> AsyncIterable[Item]:
        yield {"name": "validated"}  # type: ignore[misc]

    outer = APIRouter()
    outer.include_router(inner, prefix="/inner")
    mounted = FastAPI()
    mounted.include_router(inner)
    app = FastAPI()
    app.include_router(outer, prefix="/outer")
    app.mount("/mounted", mounted)
    client = TestClient(app)
    for path in ("/outer/inner/items", "/mounted/items"):
        assert payloads(client.get(path)) == [
            {"name": "validated", "price": 1.0, "note": None, "theSecret": "hidden"}
        ]


def test_endpoints_that_are_no_plain_functions() -> None:
    class CallableObject:
        async def __call__(self) -> AsyncIterable[Item]:
            yield ITEMS[0]

        async def method(self) -> AsyncIterable[Item]:
            yield ITEMS[0]

    async def with_argument(which: int) -> AsyncIterable[Item]:
        yield ITEMS[which]

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    endpoints = [
        CallableObject().method,
        functools.partial(with_argument, which=0),
        decorated(CallableObject().method),
    ]
    if FASTAPI >= (0, 140, 0):
        endpoints.append(CallableObject())
    app = FastAPI()
    for number, endpoint in enumerate(endpoints):
        app.get(f"/{number}", response_class=EventSourceResponse)(endpoint)
    client = TestClient(app)
    for number in range(len(endpoints)):
        assert payloads(client.get(f"/{number}"))[0]["name"] == "Plumbus", endpoints[number]


def test_a_response_can_be_returned() -> None:
    app = FastAPI()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    @app.get("/plain")
    async def plain() -> EventSourceResponse:
        return EventSourceResponse(numbers())

    @app.get("/sync")
    def sync() -> EventSourceResponse:
        return EventSourceResponse(iter([1, 2]))

    @app.get("/class", response_class=EventSourceResponse)
    async def with_class() -> EventSourceResponse:
        return EventSourceResponse(numbers(), status_code=201, headers={"X-A": "b"})

    @app.get("/class-sync", response_class=EventSourceResponse)
    def with_class_sync() -> EventSourceResponse:
        return EventSourceResponse(numbers())

    @app.get("/bare", response_class=EventSourceResponse, status_code=202)
    async def bare(response: Response) -> Any:
        response.headers["X-Injected"] = "yes"
        return numbers()

    @app.get("/bare-sync", response_class=EventSourceResponse)
    def bare_sync() -> Any:
        return iter([1, 2])

    @app.get("/other", response_class=EventSourceResponse)
    async def other() -> Any:
        return Response(status_code=204)

    client = TestClient(app)
    for path in ("/plain", "/sync", "/class", "/class-sync", "/bare", "/bare-sync"):
        assert payloads(client.get(path)) == [1, 2], path
    assert client.get("/class").status_code == 201
    assert client.get("/class").headers["x-a"] == "b"
    assert client.get("/bare").status_code == 202
    assert client.get("/bare").headers["x-injected"] == "yes"
    assert client.get("/other").status_code == 204


def test_what_cannot_be_streamed_is_refused_by_name() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def returns_a_dict() -> Any:
        return {"not": "a stream"}

    with pytest.raises(TypeError, match=r"returns_a_dict.*must yield.*dict"):
        TestClient(app).get("/")


def test_plain_starlette_routes() -> None:
    async def endpoint(request: Request) -> EventSourceResponse:
        async def content() -> AsyncIterator[Any]:
            yield ServerSentEvent(data={"q": request.query_params["q"]}, event="e")

        return EventSourceResponse(content())

    client = TestClient(Starlette(routes=[Route("/", endpoint)]))
    (event,) = events(client.get("/?q=x"))
    assert (event.event, event.json()) == ("e", {"q": "x"})


# Dependencies, headers, status, background tasks


def test_dependencies_live_as_long_as_the_stream() -> None:
    log: list[str] = []

    async def session() -> AsyncIterator[str]:
        log.append("open")
        try:
            yield "session"
        finally:
            log.append("close")

    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def route(session: Annotated[str, Depends(session)]) -> AsyncIterable[str]:
        for number in range(3):
            log.append(f"event {number}")
            yield session

    assert payloads(TestClient(app).get("/")) == ["session"] * 3
    assert log == ["open", "event 0", "event 1", "event 2", "close"]


def test_a_dependency_sees_the_exception_of_the_stream() -> None:
    seen: list[BaseException] = []

    def session() -> Iterator[None]:
        try:
            yield
        except LookupError as error:
            seen.append(error)
            raise

    app = FastAPI(dependencies=[Depends(session)])

    @app.get("/", response_class=EventSourceResponse)
    async def route() -> AsyncIterable[str]:
        yield "a"
        raise LookupError("in the stream")

    with pytest.raises(LookupError, match="in the stream"):
        TestClient(app).get("/")
    assert len(seen) == 1


def test_dependency_overrides() -> None:
    def real() -> str:
        return "real"

    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def route(value: Annotated[str, Depends(real)]) -> AsyncIterable[str]:
        yield value

    app.dependency_overrides[real] = lambda: "overridden"
    assert payloads(TestClient(app).get("/")) == ["overridden"]


class Patient(EventSourceResponse):
    """Waits for a first event that comes from a thread: on a busy machine one may take longer to
    start than the usual 0.25 s."""

    open_delay = 60


@pytest.mark.parametrize("injected_into", ["endpoint", "dependency"])
@pytest.mark.parametrize("sync", [True, False])
def test_headers_cookies_and_status_set_before_the_first_event_are_sent(
    injected_into: str, sync: bool
) -> None:
    def get_response(response: Response) -> Response:
        response.headers["X-Before"] = "dependency"
        response.headers["X-Changed"] = "no"
        return response

    def prepare(response: Response) -> None:
        response.headers["X-Generator"] = "set"
        response.headers["X-Changed"] = "yes"
        response.set_cookie("session", "1")
        response.status_code = 203

    app = FastAPI()
    if injected_into == "endpoint":
        annotation: Any = Response
        dependencies = [Depends(get_response)]
    else:
        annotation = Annotated[Any, Depends(get_response)]
        dependencies = []

    if sync:

        def route(response):  # type: ignore[no-untyped-def]
            prepare(response)
            yield 1
    else:

        async def route(response):  # type: ignore[no-untyped-def]
            prepare(response)
            yield 1

    route.__annotations__["response"] = annotation
    app.get("/", response_class=Patient, dependencies=dependencies)(route)
    response = TestClient(app).get("/")
    assert response.status_code == 203
    assert response.headers["x-before"] == "dependency"
    assert response.headers["x-generator"] == "set"
    assert response.headers.get_list("x-changed") == ["yes"]
    assert response.cookies["session"] == "1"
    assert payloads(response) == [1]


@pytest.mark.parametrize("sync", [True, False])
def test_an_http_exception_before_the_first_event_is_a_real_response(sync: bool) -> None:
    app = FastAPI()

    if sync:

        @app.get("/", response_class=Patient)
        def route_sync() -> Iterable[str]:
            raise HTTPException(403, "not yours", headers={"X-Why": "secret"})
            yield
    else:

        @app.get("/", response_class=EventSourceResponse)
        async def route() -> AsyncIterable[str]:
            raise HTTPException(403, "not yours", headers={"X-Why": "secret"})
            yield

    response = TestClient(app).get("/")
    assert response.status_code == 403
    assert response.json() == {"detail": "not yours"}
    assert response.headers["x-why"] == "secret"


def test_a_custom_exception_handler_answers_before_the_first_event() -> None:
    app = FastAPI()

    @app.exception_handler(LookupError)
    async def handle(request: Request, error: Exception) -> Response:
        return Response(f"handled {error}", status_code=404)

    @app.get("/", response_class=EventSourceResponse)
    async def route() -> AsyncIterable[str]:
        raise LookupError("it")
        yield

    response = TestClient(app).get("/")
    assert (response.status_code, response.text) == (404, "handled it")


def test_background_tasks_run_after_the_stream() -> None:
    log: list[str] = []
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def route(tasks: BackgroundTasks) -> AsyncIterable[str]:
        tasks.add_task(log.append, "background")
        yield "a"
        log.append("end of stream")

    TestClient(app).get("/")
    assert log == ["end of stream", "background"]


def test_a_generator_may_ask_whether_the_client_is_there() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def route(request: Request) -> AsyncIterable[int]:
        for number in range(20):
            if await request.is_disconnected():
                break
            yield number

    assert payloads(TestClient(app).get("/")) == list(range(20))


# Items that do not fit


@pytest.mark.parametrize("sync", [True, False])
def test_an_item_of_the_wrong_type_is_fastapis_error(sync: bool) -> None:
    app = FastAPI()

    if sync:

        @app.get("/", response_class=EventSourceResponse)
        def route() -> Iterable[Item]:
            yield {"price": "not a number"}  # type: ignore[misc]
    else:

        @app.get("/", response_class=EventSourceResponse)
        async def route() -> AsyncIterable[Item]:  # type: ignore[misc]
            yield {"price": "not a number"}  # type: ignore[misc]

    with pytest.raises(ResponseValidationError) as caught:
        TestClient(app).get("/")
    locations = {error["loc"] for error in caught.value.errors()}
    assert locations == {("response", "name"), ("response", "price")}
    assert caught.value.body == {"price": "not a number"}
    assert "GET /" in str(caught.value)
    assert "route" in str(caught.value)


# Validation: pydantic does not look into an instance of a model, unless it is told to


class Subclass(Item):
    extra: int = 0


class Revalidated(Item):
    model_config = ConfigDict(revalidate_instances="always")


class SubclassesRevalidated(Item):
    model_config = ConfigDict(revalidate_instances="subclass-instances")


class OfSubclass(SubclassesRevalidated):
    extra: int = 0


class CheckedBefore(Item):
    @model_validator(mode="before")
    @classmethod
    def before(cls, value: Any) -> Any:
        validated.append("before")
        return value


class CheckedAfter(Item):
    @model_validator(mode="after")
    def after(self) -> "CheckedAfter":
        validated.append("after")
        return self


class CheckedAround(Item):
    @model_validator(mode="wrap")
    @classmethod
    def around(cls, value: Any, handler: Any) -> Any:
        validated.append("around")
        return handler(value)


class Tree(BaseModel):
    name: str
    price: float = 1.0
    branches: list["Tree"] = []


class Names(RootModel[list[str]]):
    pass


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    name: str = ""
    price: float = 1.0
    content: T


def _refused(item: Item) -> Item:
    if item.price == "cheap":
        raise ValueError("it has no price")
    return item


validated: list[str] = []
DECLARED = {
    "a model": (Item, lambda: Item(name="a")),
    "a subclass": (Item, lambda: Subclass(name="a", extra=1)),
    "always revalidated": (Revalidated, lambda: Revalidated(name="a")),
    "revalidated if of a subclass": (SubclassesRevalidated, lambda: OfSubclass(name="a")),
    "revalidated if it were": (SubclassesRevalidated, lambda: SubclassesRevalidated(name="a")),
    "a validator before": (CheckedBefore, lambda: CheckedBefore(name="a")),
    "a validator after": (CheckedAfter, lambda: CheckedAfter(name="a")),
    "a validator around": (CheckedAround, lambda: CheckedAround(name="a")),
    "an annotated type": (Annotated[Item, AfterValidator(_refused)], lambda: Item(name="a")),
    "a model that holds itself": (Tree, lambda: Tree(name="a", branches=[Tree(name="b")])),
    "a generic model": (Page[int], lambda: Page[int](content=7)),
    "a generic model of another type": (Page[int], lambda: Page[str](content="b")),
    "a union": (Item | Tree, lambda: Tree(name="a")),
    "a root model": (Names, lambda: Names(["a", "b"])),
    "made without validation": (Item, lambda: Item.model_construct(price="cheap")),
}


def refused_locations(error: Exception) -> Any:
    if isinstance(error, ResponseValidationError):
        return [each["loc"] for each in error.errors()]
    [inner] = getattr(error, "exceptions", ())  # of a group of a single one
    return refused_locations(inner)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize("case", DECLARED)
def test_items_are_validated_as_with_fastapi(case: str, spoilt: bool) -> None:
    declared, make = DECLARED[case]
    outcomes = []
    for flavour in FLAVOURS.values():
        app = FastAPI()
        item = make()
        if spoilt and not isinstance(item, Names):
            item.price = "cheap"  # type: ignore[assignment]

        @app.get("/", response_class=flavour.response)
        async def route() -> AsyncIterable[declared]:  # type: ignore[valid-type]
            yield item  # noqa: B023

        validated.clear()
        try:
            sent: Any = payloads(TestClient(app).get("/"))
        except Exception as error:
            sent = refused_locations(error)
        outcomes.append((sent, list(validated)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]


# HEAD, options, accelerate


def test_head_answers_headers_and_does_not_start_the_generator() -> None:
    started: list[str] = []
    app = FastAPI()

    @app.api_route("/", methods=["GET", "HEAD"], response_class=EventSourceResponse)
    async def route() -> AsyncIterable[str]:
        started.append("yes")
        yield "a"

    response = TestClient(app).head("/")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert "connection" not in response.headers
    assert response.content == b""
    assert started == []


def test_options_of_a_subclass_reach_the_stream() -> None:
    told: list[str] = []

    class Quick(EventSourceResponse):
        ping_interval = 0.01
        media_type = "text/event-stream; charset=utf-8"

        def on_disconnect(self) -> None:
            told.append("method")

    app = FastAPI()

    @app.get("/", response_class=Quick)
    async def route() -> AsyncIterable[str]:
        import asyncio

        yield "a"
        await asyncio.sleep(0.1)

    assert b": ping\n" in TestClient(app).get("/").content


def test_accelerate_puts_fastapi_routes_on_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sserpent._fastapi.acceleration._accelerated", False)

    def build() -> TestClient:
        return TestClient(build_kinds(FLAVOURS["fastapi"]))

    before = build().get("/plain").text
    sserpent.accelerate()
    client = build()
    after = client.get("/plain").text
    assert '"name": "Plumbus"' in before
    assert '"name":"Plumbus"' in after
    assert [e.data for e in events(client.get("/events"))][1:] == ["two\nlines", '"text"']


def test_other_routes_are_left_alone() -> None:
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    @app.get("/json")
    async def plain() -> Item:
        return ITEMS[0]

    @app.get("/raw", response_class=StreamingResponse)
    async def raw() -> AsyncIterable[bytes]:
        yield b"a"
        yield b"b"

    @app.get("/jsonl")
    async def lines() -> AsyncIterable[Item]:
        yield ITEMS[0]

    client = TestClient(app)
    assert client.get("/json").json()["name"] == "Plumbus"
    assert client.get("/raw").content == b"ab"
    assert client.get("/jsonl").headers["content-type"] == "application/jsonl"


# Middlewares


def test_middlewares_let_the_stream_through() -> None:
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.gzip import GZipMiddleware

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Middleware"] = "seen"
        return response

    app = build_kinds(FLAVOURS["sserpent"])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_middleware(GZipMiddleware, minimum_size=1)
    response = TestClient(app).get("/async", headers={"Accept-Encoding": "gzip"})
    assert response.headers["x-middleware"] == "seen"
    assert [item["name"] for item in payloads(response)] == ["Plumbus", "Portal Gun"]


def test_a_body_iterator_that_is_read_or_replaced() -> None:
    class Upper(fastapi.routing.APIRoute):
        def get_route_handler(self) -> Any:
            original = super().get_route_handler()

            async def handler(request: Request) -> Response:
                response: Any = await original(request)
                chunks = [chunk async for chunk in response.body_iterator]

                async def replaced() -> AsyncIterator[bytes]:
                    for chunk in chunks:
                        yield chunk.upper()

                response.body_iterator = replaced()
                return response  # type: ignore[no-any-return]

            return handler

    app = FastAPI()
    app.router.route_class = Upper

    @app.get("/", response_class=EventSourceResponse)
    async def route() -> AsyncIterable[str]:
        yield "a"
        yield "b"

    assert TestClient(app).get("/").text == 'DATA: "A"\n\nDATA: "B"\n\n'


# Where the seam does not fit


def test_the_seam_steps_aside_when_it_does_not_fit() -> None:
    import subprocess
    import sys

    program = """
import inspect, json, warnings
import fastapi.routing as routing
original = routing.get_request_handler
def get_request_handler(dependant, **kwargs):
    return original(dependant=dependant, **kwargs)
parameters = inspect.signature(original).parameters.values()
get_request_handler.__signature__ = inspect.Signature(
    [each for each in parameters if each.name != "stream_item_field"]
)
routing.get_request_handler = get_request_handler
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import sserpent
    sserpent.EventSourceResponse
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "get_request_handler has no parameter stream_item_field" in str(caught[0].message)
assert routing.get_request_handler is get_request_handler
import fastapi.sse
assert issubclass(sserpent.ServerSentEvent, fastapi.sse.ServerSentEvent)
assert sserpent.ServerSentEvent(data={"a": 1}, id="1").encode() == b'data: {"a":1}\\nid: 1\\n\\n'
from collections.abc import AsyncIterable
from fastapi import FastAPI
from fastapi.testclient import TestClient
app = FastAPI()
@app.get("/", response_class=sserpent.EventSourceResponse)
async def route() -> AsyncIterable[sserpent.ServerSentEvent]:
    yield sserpent.ServerSentEvent(data=[1, 2], event="e")
@app.get("/returned")
async def returned():
    async def content():
        yield sserpent.ServerSentEvent(data=[1, 2], event="e")
    return sserpent.EventSourceResponse(content())
client = TestClient(app)
assert client.get("/").text == "event: e\\ndata: [1, 2]\\n\\n"
assert client.get("/returned").text == "event: e\\ndata: [1,2]\\n\\n"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
