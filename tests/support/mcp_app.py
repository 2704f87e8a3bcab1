"""An MCP server whose SDK finds `sserpent.compat.sse_starlette` where it looks for
`sse_starlette`."""

from __future__ import annotations

import sys
from typing import Any

import anyio

from sserpent.compat import sse_starlette

sys.modules["sse_starlette"] = sse_starlette

import mcp.server.streamable_http  # noqa: E402
from mcp.server.mcpserver import Context, MCPServer  # noqa: E402

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


app = server.streamable_http_app()
app.router.routes.extend(server.sse_app().routes)
