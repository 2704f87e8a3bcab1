"""The SDK of A2A on `sserpent.compat.sse_starlette`: its server, and its own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from event_loops import asyncio_only
from servers import Server, fetch, on, until, uvicorn

pytest.importorskip("a2a.server.routes", reason="a2a-sdk is not installed")

from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import get_artifact_text, new_text_message
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskState,
)

# The bytes are tested with both cores.
pytestmark = [pytest.mark.once, pytest.mark.anyio]

APP = "a2a_app:app"
TRANSPORTS = {"JSONRPC": "/rpc", "HTTP+JSON": "/rest"}
transports = pytest.mark.parametrize("transport", TRANSPORTS)


@asynccontextmanager
async def connected(server: Server, transport: str) -> AsyncIterator[Client]:
    interface = AgentInterface(
        protocol_binding=transport,
        url=server.url + TRANSPORTS[transport],
        protocol_version="1.0",
    )
    card = AgentCard(
        name="counter",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=True),
    )
    with anyio.fail_after(60):
        async with httpx.AsyncClient(timeout=30) as http:
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=[transport])
            async with ClientFactory(config).create(card) as client:
                yield client


def asked(text: str) -> SendMessageRequest:
    return SendMessageRequest(message=new_text_message(text, role=Role.ROLE_USER))


def kind(event: Any) -> Any:
    """Returns the kind of an event, its text, or its state."""
    name = event.WhichOneof("payload")
    if name == "artifact_update":
        return get_artifact_text(event.artifact_update.artifact)
    return event.status_update.status.state if name == "status_update" else name


@on("uvicorn")
@transports
@asyncio_only
async def test_e4_a_message_is_answered_in_a_stream(shared: Server, transport: str) -> None:
    async with connected(shared, transport) as client:
        events = [kind(event) async for event in client.send_message(asked("one two é"))]
    working, completed = TaskState.TASK_STATE_WORKING, TaskState.TASK_STATE_COMPLETED
    assert events == ["task", working, "one", "two", "é", completed]


async def started(client: Any, prompt: str, until_word: str) -> tuple[Any, str]:
    """Sends a prompt, and returns the stream after a word of the answer, and the task's id."""
    stream = client.send_message(asked(prompt))
    task_id = (await anext(stream)).task.id
    async for event in stream:
        if kind(event) == until_word:
            break
    return stream, task_id


@on("uvicorn")
@transports
@asyncio_only
async def test_e4_a_client_that_left_subscribes_again(shared: Server, transport: str) -> None:
    async with connected(shared, transport) as client:
        stream, task_id = await started(client, "one go-on three", "go-on")
        await stream.aclose()
        again = client.subscribe(SubscribeToTaskRequest(id=task_id))
        first = await anext(again)
        assert first.task.id == task_id
        assert " 204 " in await anyio.to_thread.run_sync(fetch, shared, "/go-on")
        rest = [kind(event) async for event in again]
        assert rest[-2:] == ["three", TaskState.TASK_STATE_COMPLETED]
        task = await client.get_task(GetTaskRequest(id=task_id))
        assert get_artifact_text(task.artifacts[0], " ") == "one go-on three"


@on("uvicorn")
@transports
@asyncio_only
async def test_e4_a_task_that_is_cancelled_ends_its_stream(shared: Server, transport: str) -> None:
    async with connected(shared, transport) as client:
        stream, task_id = await started(client, "one wait three", "wait")
        await client.cancel_task(CancelTaskRequest(id=task_id))
        assert [kind(event) async for event in stream] == [TaskState.TASK_STATE_CANCELED]
    until(lambda: "agent cancelled" in shared.log)


@transports
@asyncio_only
async def test_e4_a_server_with_an_open_stream_shuts_down(
    serve: Callable[..., Server], transport: str
) -> None:
    server = serve(uvicorn(APP, "--timeout-graceful-shutdown", "30"))

    async def read() -> None:
        async with connected(server, transport) as client:
            stream = client.send_message(asked("one wait three"))
            async for event in stream:
                if kind(event) == "wait":
                    server.process.terminate()

    with pytest.raises(Exception, match=r"(?i)peer closed|network|connection|incomplete"):
        await read()
    until(lambda: server.process.poll() is not None)
    assert "timeout graceful shutdown exceeded" not in server.log
