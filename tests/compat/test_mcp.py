"""MCP's SDK on `sserpent.compat.sse_starlette`: its server's transports, and its own client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio
import httpx
import mcp.types as types
import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

import blocking
from event_loops import asyncio_only
from servers import Server, on, until, uvicorn

pytestmark = pytest.mark.anyio

APP = "mcp_app:app"  # under BlockBuster, where that can run
BLOCKED = "Blocking call"
TRANSPORTS = {
    "streamable HTTP": (streamable_http_client, "/mcp"),
    "SSE": (sse_client, "/sse"),
}
transports = pytest.mark.parametrize("transport", TRANSPORTS)


@on("uvicorn")
@transports
@asyncio_only
async def test_e4_tools_progress_and_notifications(shared: Server, transport: str) -> None:
    connect, path = TRANSPORTS[transport]
    progress: list[float] = []
    messages: list[object] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    async def on_message(message: types.LoggingMessageNotificationParams) -> None:
        messages.append(message.data)

    with anyio.fail_after(60):
        async with connect(shared.url + path) as streams:
            async with ClientSession(*streams[:2], logging_callback=on_message) as session:
                await session.initialize()
                tools = await session.list_tools()
                assert {tool.name for tool in tools.tools} == {"add", "count", "wait"}
                added = await session.call_tool("add", {"a": 2, "b": 3})
                assert added.content[0].text == "5"
                await session.call_tool("count", {"to": 3}, progress_callback=on_progress)
    assert progress == [1, 2, 3]
    assert messages == ["at 1", "at 2", "at 3"]
    assert BLOCKED not in shared.log


@on("uvicorn")
@transports
@asyncio_only
async def test_e4_a_call_that_is_given_up_leaves_the_session_usable(
    shared: Server, transport: str
) -> None:
    connect, path = TRANSPORTS[transport]
    with anyio.fail_after(60):
        async with connect(shared.url + path) as streams:
            async with ClientSession(*streams[:2]) as session:
                await session.initialize()
                with anyio.move_on_after(0.5) as given_up:
                    await session.call_tool("wait", {})
                assert given_up.cancelled_caught
                added = await session.call_tool("add", {"a": 1, "b": 1})
                assert added.content[0].text == "2"
    assert BLOCKED not in shared.log


@on("uvicorn")
@pytest.mark.skipif(not blocking.CAN_RUN, reason=blocking.REASON)
def test_e3_a_blocking_call_in_the_event_loop_of_this_server_is_noticed(shared: Server) -> None:
    assert httpx.get(f"{shared.url}/block").status_code == 500
    assert f"{BLOCKED} to time.sleep" in shared.log


@transports
@asyncio_only
async def test_e4_a_server_with_an_open_session_shuts_down(
    serve: Callable[..., Server], transport: str
) -> None:
    connect, path = TRANSPORTS[transport]
    server = serve(uvicorn(APP))
    with contextlib.suppress(Exception):  # whatever its client makes of it
        with anyio.move_on_after(60):
            async with connect(server.url + path) as streams:
                async with ClientSession(*streams[:2]) as session:
                    await session.initialize()
                    server.process.terminate()
                    await anyio.to_thread.run_sync(until, lambda: server.process.poll() is not None)
    assert server.process.poll() is not None
    assert BLOCKED not in server.log
