"""An MCP server whose SDK finds `sserpent.compat.sse_starlette` where it looks for
`sse_starlette`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import blocking
import compat_setup  # noqa: F401 - before the SDK

# isort: split
import anyio
import mcp.server.streamable_http
from mcp.server.mcpserver import Context, MCPServer
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sserpent.compat import sse_starlette

assert mcp.server.streamable_http.EventSourceResponse is sse_starlette.EventSourceResponse

server = MCPServer("numbers")


@server.tool()
async def add(a: int, b: int) -> int:
    return a + b


@server.tool()
async def count(to: int, context: Context[Any, Any]) -> str:
    for number in range(1, to + 1):
        await context.report_progress(number, to)
        await context.info(f"at {number}")
    return "done"


@server.tool()
async def wait() -> str:
    await anyio.sleep_forever()
    return "never"


async def block(request: Request) -> Response:
    time.sleep(0.001)  # noqa: ASYNC251
    return Response()


app = server.streamable_http_app()
app.router.routes.extend([*server.sse_app().routes, Route("/block", block)])
watched = ExitStack()
if blocking.CAN_RUN:
    watched.enter_context(blocking.forbidden())
