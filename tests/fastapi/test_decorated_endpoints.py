"""Endpoints that are decorated, or return an iterator, and what tracers see of them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import fastapi
import fastapi.routing
import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import ResponseValidationError
from fastapi.testclient import TestClient
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent

# FastAPI before 0.140.8 forgets the item type of a route that comes through `include_router`.
KEEPS_ITEM_TYPES = [int(part) for part in fastapi.__version__.split(".")] >= [0, 140, 8]


class Item(BaseModel):
    name: str


async def items() -> AsyncIterator[Item]:
    yield Item(name="a")


def sync_items() -> Iterator[Item]:
    yield Item(name="a")


async def returned() -> AsyncIterator[Item]:
    return items()


def sync_returned() -> Iterator[Item]:
    return sync_items()


ENDPOINTS = [items, sync_items, returned, sync_returned]


def plain(endpoint: Any) -> Any:
    @functools.wraps(endpoint)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return endpoint(*args, **kwargs)

    return wrapper


def awaiting(endpoint: Any) -> Any:
    @functools.wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        result = endpoint(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return wrapper


def yielding(endpoint: Any) -> Any:
    @functools.wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = endpoint(*args, **kwargs)
        result = await result if inspect.isawaitable(result) else result
        if hasattr(result, "__aiter__"):
            async for item in result:
                yield item
        else:
            for item in result:
                yield item

    return wrapper


def responding(endpoint: Any) -> Any:
    @functools.wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = endpoint(*args, **kwargs)
        result = await result if inspect.isawaitable(result) else result
        return EventSourceResponse(result, headers={"x-made": "by the wrapper"})

    return wrapper


class Callable:
    """A decorator that is an object."""

    def __init__(self, endpoint: Any) -> None:
        functools.update_wrapper(self, endpoint)
        self.endpoint = endpoint

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await awaiting(self.endpoint)(*args, **kwargs)


DECORATORS = [lambda endpoint: endpoint, plain, awaiting, yielding, responding, Callable]


def app_of(endpoint: Any, **options: Any) -> FastAPI:
    app = FastAPI()
    app.get("/", response_class=EventSourceResponse, **options)(endpoint)
    return app


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("decorate", DECORATORS)
def test_e7_a_decorated_endpoint_streams(decorate: Any, endpoint: Any) -> None:
    response = TestClient(app_of(decorate(endpoint))).get("/")
    assert response.text == 'data: {"name":"a"}\n\n'
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert ("x-made" in response.headers) == (decorate is responding)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_e7_its_item_type_is_in_the_document_and_is_validated(endpoint: Any) -> None:
    async def bad() -> AsyncIterator[Item]:
        yield {"title": "b"}  # type: ignore[misc]

    @functools.wraps(endpoint)
    async def wrong() -> Any:
        return bad()

    app = app_of(wrong)
    content = app.openapi()["paths"]["/"]["get"]["responses"]["200"]["content"]
    data = content["text/event-stream"]["itemSchema"]["properties"]["data"]
    assert data["contentSchema"] == {"$ref": "#/components/schemas/Item"}
    with pytest.raises(ResponseValidationError, match=f"in {endpoint.__name__}"):
        TestClient(app).get("/")


def test_e7_an_iterator_of_events_has_no_type_of_data_in_the_document() -> None:
    async def events() -> AsyncIterator[ServerSentEvent]:
        async def content() -> AsyncIterator[ServerSentEvent]:
            yield ServerSentEvent(event="a", data=1)

        return content()

    app = app_of(events)
    content = app.openapi()["paths"]["/"]["get"]["responses"]["200"]["content"]
    assert "contentSchema" not in str(content["text/event-stream"])
    assert TestClient(app).get("/").text == "event: a\ndata: 1\n\n"


def test_e7_it_is_described_and_validated_through_a_router_too() -> None:
    router = fastapi.APIRouter()
    router.get("/", response_class=EventSourceResponse)(returned)
    app = FastAPI()
    app.include_router(router, prefix="/more")
    assert TestClient(app).get("/more/").text == 'data: {"name":"a"}\n\n'
    content = app.openapi()["paths"]["/more/"]["get"]["responses"]["200"]["content"]
    if "itemSchema" in content["text/event-stream"] or KEEPS_ITEM_TYPES:
        assert "Item" in str(content["text/event-stream"]["itemSchema"])


@pytest.mark.filterwarnings("error")
def test_e7_a_coroutine_that_a_sync_endpoint_returns_is_refused_with_its_name() -> None:
    def endpoint() -> Any:
        return returned()

    with pytest.raises(TypeError, match=r"endpoint \(.*must yield, or return .* coroutine"):
        TestClient(app_of(endpoint)).get("/")


def test_e7_a_sync_endpoint_runs_in_a_thread_and_a_generator_does_not() -> None:
    threads: list[int] = []

    def endpoint() -> Any:
        threads.append(threading.get_ident())
        return sync_items()

    def generator() -> Any:
        threads.append(threading.get_ident())
        return sync_items()

    async def loop() -> None:
        threads.append(threading.get_ident())

    app = app_of(endpoint)
    app.get("/generator", response_class=EventSourceResponse)(
        functools.update_wrapper(generator, sync_items)
    )
    app.get("/loop")(loop)
    with TestClient(app) as client:
        for path in ("/", "/generator", "/loop"):
            assert client.get(path).status_code == 200
    assert threads[0] != threads[1] == threads[2]


# What is set on the injected response


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("decorate", DECORATORS[:4])
def test_e7_what_a_dependency_sets_on_the_response_is_sent(decorate: Any, endpoint: Any) -> None:
    def dependency(response: Response) -> Response:
        response.headers["x-set"] = "by a dependency"
        response.status_code = 202
        return response

    app = app_of(decorate(endpoint), dependencies=[Depends(dependency)])
    response = TestClient(app).get("/")
    assert response.headers.get_list("x-set") == ["by a dependency"]
    assert response.status_code == 202


async def with_early_header(response: Response) -> Response:
    response.headers["x-early"] = "1"
    return response


def test_e7_a_generator_may_set_headers_on_the_response_of_a_dependency() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse, status_code=201)
    async def stream(
        response: Annotated[Response, Depends(with_early_header)],
    ) -> AsyncIterator[int]:
        response.headers["x-late"] = "2"
        response.set_cookie("cookie", "3")
        yield 1

    response = TestClient(app).get("/")
    assert (response.headers["x-early"], response.headers["x-late"]) == ("1", "2")
    assert response.cookies["cookie"] == "3"
    assert response.status_code == 201


def test_e7_a_subclass_keeps_a_status_of_its_own() -> None:
    class Accepted(EventSourceResponse):
        def __init__(self, content: Any, status_code: int = 202, **options: Any) -> None:
            super().__init__(content, status_code, **options)

    app = FastAPI()
    app.get("/own", response_class=Accepted)(items)
    app.get("/given", response_class=Accepted, status_code=203)(items)
    assert TestClient(app).get("/own").status_code == 202
    assert TestClient(app).get("/given").status_code == 203


# What tracers see


async def with_request(request: Request) -> Request:
    return request


async def with_response(response: Response) -> Response:
    return response


class Seen:
    """What FastAPI's solving of dependencies and calling of endpoints is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: list[dict[str, Any]] = []
        self.calls: list[Any] = []
        solve, run = fastapi.routing.solve_dependencies, fastapi.routing.run_endpoint_function

        async def solve_dependencies(**kwargs: Any) -> Any:
            solved = await solve(**kwargs)
            self.values.append(dict(solved.values))
            return solved

        async def run_endpoint_function(**kwargs: Any) -> Any:
            self.calls.append(kwargs["dependant"].call)
            return await run(**kwargs)

        monkeypatch.setattr(fastapi.routing, "solve_dependencies", solve_dependencies)
        monkeypatch.setattr(fastapi.routing, "run_endpoint_function", run_endpoint_function)


@pytest.mark.parametrize("kind", ENDPOINTS)
@pytest.mark.parametrize("decorate", [lambda endpoint: endpoint, awaiting, functools.partial])
def test_e6_values_and_names_are_the_applications(
    monkeypatch: pytest.MonkeyPatch, decorate: Any, kind: Any
) -> None:
    seen = Seen(monkeypatch)
    app = app_of(decorate(kind), dependencies=[Depends(with_request), Depends(with_response)])
    assert TestClient(app).get("/").status_code == 200
    assert seen.values == [{}]
    (call,) = seen.calls
    assert call.__name__ == call.__code__.co_name == kind.__name__
    assert call.__qualname__ == kind.__qualname__


def test_e6_values_are_those_that_the_endpoint_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    app = FastAPI()

    @app.get("/{number}", response_class=EventSourceResponse)
    async def numbered(
        number: int,
        request: Request,
        response: Response,
        made: Annotated[Any, Depends(with_response)],
    ) -> AsyncIterator[int]:
        assert made is response
        yield number

    assert TestClient(app).get("/5").text == "data: 5\n\n"
    (values,) = seen.values
    assert values.keys() == {"number", "request", "response", "made"}


def test_e6_an_error_of_an_endpoint_has_its_name_in_the_traceback() -> None:
    def broken() -> Any:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError) as caught:
        TestClient(app_of(broken)).get("/")
    names = [each.name for each in caught.traceback]
    assert "call_sync" not in names
    assert names[-1] == "broken"
