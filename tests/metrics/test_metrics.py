"""Metrics: exact counts of a scripted run, read back by each exporter's own means."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import sserpent._delivery.observer as observing
from asgi import Connection
from event_loops import asyncio_only
from gunzip import GZIP
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels
from sserpent.metrics import instrument_opentelemetry, instrument_prometheus
from sserpent.protocols import OpenAIChat
from sserpent.testing import Events, connect

pytestmark = pytest.mark.anyio

Labels = tuple[tuple[str, str], ...]
Read = Callable[[], dict[tuple[str, Labels], float]]


@pytest.fixture(autouse=True)
def nobody_observes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "current", None)


@pytest.fixture
def from_prometheus() -> Iterator[Read]:
    registry = CollectorRegistry()
    take_out = instrument_prometheus(registry)

    def read() -> dict[tuple[str, Labels], float]:
        text = generate_latest(registry).decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield read
    take_out()
    assert generate_latest(registry) == b""


@pytest.fixture
def from_opentelemetry() -> Iterator[Read]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    stop = instrument_opentelemetry(provider)

    def read() -> dict[tuple[str, Labels], float]:
        found: dict[tuple[str, Labels], float] = {}
        data: Any = reader.get_metrics_data()
        for of_resource in data.resource_metrics:
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    for point in metric.data.data_points:
                        labels = tuple(sorted((k, str(v)) for k, v in point.attributes.items()))
                        value = point.count if hasattr(point, "count") else point.value
                        found[metric.name, labels] = value
        return found

    yield read
    stop()
    provider.shutdown()


@asyncio_only
async def test_nothing_is_counted_until_somebody_observes() -> None:
    connection = Connection()
    await connection.run(EventSourceResponse(one()))
    assert observing.current is None


async def one() -> AsyncIterator[str]:
    yield "one"


# Every reason of an end


class Scripted:
    """Routes whose streams end for each reason."""

    def __init__(self) -> None:
        self.app = app = FastAPI()

        class Impatient(EventSourceResponse):
            send_timeout = 5

        @app.get("/{n}/complete", response_class=EventSourceResponse)
        async def complete(n: int) -> AsyncIterator[int]:
            for each in range(n):
                yield each

        @app.get("/failed", response_class=EventSourceResponse)
        async def failed() -> AsyncIterator[int]:
            yield 1
            raise RuntimeError("on purpose")

        @app.get("/refused", response_class=EventSourceResponse)
        async def refused() -> AsyncIterator[int]:
            raise HTTPException(403)
            yield 1

        @app.get("/idle", response_class=Impatient)
        async def idle() -> AsyncIterator[ServerSentEvent]:
            while True:
                yield ServerSentEvent(data="x" * 100)
                await anyio.sleep(1)

    async def play(self) -> None:
        async with connect(self.app, timeout=60) as client:
            for n in (3, 4):
                await client.get(f"/{n}/complete")
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get("/failed")
            assert (await client.get("/refused")).status_code == 403
            async with client.events("/idle") as events:
                await self.read_three(events)
            async with client.events("/idle") as events:
                await self.read_three(events)
                await events.stall()
                await anyio.sleep(10)  # of virtual time
            async with client.events("/idle") as events:
                await self.read_three(events)
                await client.shut_down()

    async def read_three(self, events: Events) -> None:
        for _ in range(3):
            await events.next()


@pytest.mark.virtual_time
@pytest.mark.parametrize("compress", [True, False])
async def test_z8_bytes_on_the_wire_are_counted_beside_those_of_events(
    from_prometheus: Read, compress: bool
) -> None:
    async def content() -> AsyncIterator[str]:
        for _ in range(3):
            yield "the same"
            await anyio.sleep(1)
        await anyio.sleep(100)

    connection = Connection(headers=GZIP)
    response = EventSourceResponse(content(), compress=compress, ping_interval=2, max_duration=9)
    await connection.run(response)
    counted = {name: value for (name, labels), value in from_prometheus().items() if labels}
    assert counted["sserpent_wire_bytes_total"] == len(connection.body)
    assert counted["sserpent_sent_bytes_total"] == 3 * len(b'data: "the same"\n\n')
    assert counted["sserpent_events_total"] == 3


@pytest.mark.virtual_time
async def test_prometheus_reads_exact_counts(from_prometheus: Read) -> None:
    scripted = Scripted()
    await scripted.play()
    read = from_prometheus()

    def of(name: str, **labels: str) -> float:
        return read[name, tuple(sorted(labels.items()))]

    assert of("sserpent_events_total", route="/{n}/complete") == 7
    assert of("sserpent_events_total", route="/failed") == 1
    # Three to each of the three clients, and one that a client did not read.
    assert of("sserpent_events_total", route="/idle") == 10
    assert of("sserpent_streams_open", route="/idle") == 0
    assert of("sserpent_pending_bytes", route="/idle") == 0
    assert of("sserpent_sent_bytes_total", route="/{n}/complete") == 7 * len(b"data: 0\n\n")
    reasons = {
        (labels["route"], labels["reason"]): value
        for (name, pairs), value in read.items()
        if name == "sserpent_stream_seconds_count" and (labels := dict(pairs))
    }
    assert reasons == {
        ("/{n}/complete", "complete"): 2,
        ("/failed", "failed"): 1,
        ("/refused", "failed"): 1,
        ("/idle", "client_left"): 1,
        ("/idle", "stalled"): 1,
        ("/idle", "shutdown"): 1,
    }
    assert of("sserpent_first_event_seconds_count", route="/idle") == 3
    assert ("sserpent_first_event_seconds_count", (("route", "/refused"),)) not in read
    assert of("sserpent_generator_threads") == 0


@pytest.mark.virtual_time
async def test_opentelemetry_reads_the_same(from_opentelemetry: Read) -> None:
    await Scripted().play()
    read = from_opentelemetry()
    assert read["sserpent.events", (("http.route", "/{n}/complete"),)] == 7
    assert read["sserpent.streams.open", (("http.route", "/idle"),)] == 0
    assert read["sserpent.sent", (("http.route", "/failed"),)] == len(b"data: 1\n\n")
    ended = {labels: count for (name, labels), count in read.items() if "stream.dur" in name}
    assert ended == {
        (("http.route", "/{n}/complete"), ("sserpent.end.reason", "complete")): 2,
        (("http.route", "/failed"), ("sserpent.end.reason", "failed")): 1,
        (("http.route", "/refused"), ("sserpent.end.reason", "failed")): 1,
        (("http.route", "/idle"), ("sserpent.end.reason", "client_left")): 1,
        (("http.route", "/idle"), ("sserpent.end.reason", "stalled")): 1,
        (("http.route", "/idle"), ("sserpent.end.reason", "shutdown")): 1,
    }


@asyncio_only
@pytest.mark.virtual_time
async def test_open_streams_count_while_they_are_open(from_prometheus: Read) -> None:
    async with connect(Scripted().app) as client:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                events = await stack.enter_async_context(client.events("/idle"))
                await events.next()
            read = from_prometheus()
            assert read["sserpent_streams_open", (("route", "/idle"),)] == 3
            assert read["sserpent_events_total", (("route", "/idle"),)] == 3
        assert from_prometheus()["sserpent_streams_open", (("route", "/idle"),)] == 0


@asyncio_only
async def test_labels_do_not_grow_with_requests(from_prometheus: Read) -> None:
    async def stream(_: Any) -> EventSourceResponse:
        return EventSourceResponse(one())

    scripted = Scripted()
    app = Starlette(
        routes=[
            Mount("/tenants/{tenant}", Starlette(routes=[Route("/{n}/plain", stream)])),
            Mount("/", scripted.app),
        ]
    )
    async with connect(app) as client:
        for n in range(20):
            for path in (f"/{n}/complete", f"/tenants/t{n}/{n}/plain"):
                (await client.get(path)).raise_for_status()
    routes = {dict(labels).get("route") for _, labels in from_prometheus()} - {None}
    assert len(routes) == 2
    assert "/{n}/complete" in routes


@asyncio_only
async def test_channels_tell_of_gaps_resets_and_publishes(from_prometheus: Read) -> None:
    channels = Channels()
    news = channels.channel("news", history=2)
    first = await news.publish(0)
    for n in range(1, 10):
        await news.publish(n)
    for after in (first, "garbage", None):
        connection = Connection()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, news.subscribe(after=after))
            await connection.until(lambda connection=connection: connection.started)
            connection.disconnect()
    read = from_prometheus()
    assert read["sserpent_published_events_total", (("channel", "news"),)] == 10
    trimmed = (("channel", "news"), ("reason", "trimmed"))
    assert read["sserpent_gaps_total", trimmed] == 1
    assert read["sserpent_missed_events_total", trimmed] == 7
    assert read["sserpent_resets_total", (("channel", "news"), ("reason", "unknown"))] == 1


@asyncio_only
async def test_what_a_subscriber_does_not_read_is_pending(from_prometheus: Read) -> None:
    pending = "sserpent_pending_bytes", (("route", ""),)
    news = Channels().channel("news")
    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, news.subscribe())
        await connection.until(lambda: connection.started)
        connection.stall()
        sent = await news.publish(0)
        await connection.until(lambda: connection.stalled)  # the `send` of that
        ids = [await news.publish(n) for n in range(5)]
        await anyio.wait_all_tasks_blocked()
        frames = [f"id: {each}\ndata: {n}\n\n" for n, each in enumerate(ids)]
        assert from_prometheus()[pending] == len("".join(frames))
        connection.unstall()
        await connection.until(lambda: f"id: {ids[-1]}".encode() in connection.body)
        assert from_prometheus()[pending] == 0
        assert sent.encode() in connection.body
        connection.disconnect()


@pytest.mark.parametrize(
    ("module", "function", "names"),
    [
        ("prometheus_client", "instrument_prometheus", "prometheus-client"),
        ("opentelemetry.metrics", "instrument_opentelemetry", "opentelemetry-api"),
    ],
)
@pytest.mark.once
def test_what_is_not_installed_is_named(module: str, function: str, names: str) -> None:
    code = (
        "import sys; import sserpent.metrics as metrics;"
        f" sys.modules['{module}'] = None; metrics.{function}()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert f"ImportError: {names} is not installed: pip install 'sserpent[" in ran.stderr


@asyncio_only
async def test_p1_a_stream_that_says_that_it_failed_has_failed(from_prometheus: Read) -> None:
    async def failing() -> AsyncIterator[dict[str, int]]:
        yield {"a": 1}
        raise HTTPException(429, "slow")

    connection = Connection()
    await connection.run(OpenAIChat(failing()))
    assert connection.complete
    counted = from_prometheus()
    reasons = {
        dict(labels)["reason"]: value
        for (name, labels), value in counted.items()
        if name == "sserpent_stream_seconds_count"
    }
    assert reasons == {"failed": 1}
    events = [value for (name, _), value in counted.items() if name == "sserpent_events_total"]
    assert events == [2]


@asyncio_only
async def test_a_route_of_a_router_is_named_with_every_prefix(from_prometheus: Read) -> None:
    router = APIRouter(prefix="/rooms")

    @router.get("/{n}", response_class=EventSourceResponse)
    async def room(n: int) -> AsyncIterator[int]:
        yield n

    outer, app = APIRouter(), FastAPI()
    outer.include_router(router, prefix="/v2")
    app.include_router(router, prefix="/v1")
    app.include_router(outer, prefix="/api")
    async with connect(app) as client:
        for path in ("/v1/rooms/1", "/api/v2/rooms/2", "/api/v2/rooms/3"):
            (await client.get(path)).raise_for_status()
    read = from_prometheus()
    events = {
        dict(labels)["route"]: value
        for (name, labels), value in read.items()
        if name == "sserpent_events_total"
    }
    assert events == {"/v1/rooms/{n}": 1, "/api/v2/rooms/{n}": 2}


async def test_opentelemetry_exports_nothing_after_it_was_stopped() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    def exported() -> list[Any]:
        data: Any = reader.get_metrics_data()
        return [
            (metric.name, point.value)
            for of_resource in (data.resource_metrics if data is not None else ())
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
            if metric.name == "sserpent.events"
            for point in metric.data.data_points
        ]

    # As in the lifespan of an application that is started twice in a process: in its tests.
    for _ in range(2):
        stop = instrument_opentelemetry(provider)
        await Connection().run(EventSourceResponse(one()))
        assert len(exported()) == 1
        stop()
        assert exported() == []
    provider.shutdown()
