"""The application of the benchmarks of compression: `/{contender}/{kind}` streams, and a POST to
`/{kind}` publishes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Response
from starlette_compress import CompressMiddleware

from sserpent import EventSourceResponse
from sserpent.channels import Channels

channels = Channels()
kinds = {kind: channels.channel(kind) for kind in ("JSON", "HTML")}
chosen = random.Random(7)
words = [
    "".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(2, 9)))
    for _ in range(2_000)
]
routes = FastAPI(openapi_url=None)
middleware = CompressMiddleware(routes, zstd=False, brotli=False)
number = clients = 0
turn = asyncio.Event()


def item_of(kind: str) -> Any:
    """An event as such streams have it: much of it comes again in the next, and some does not."""
    global number
    number += 1
    if kind == "JSON":
        return {
            "type": "quote",
            "symbol": chosen.choice(("ACME", "GLOB", "INIT", "UMBR")),
            "price": chosen.randrange(100_000) / 100,
            "currency": "EUR",
            "exchange": "XFRA",
            "volume": chosen.randrange(10_000),
        }
    if kind == "HTML":
        rows = (
            f'<tr class="border-b hover:bg-slate-100"><td class="px-4 py-2">{each}</td>'
            f'<td class="px-4 py-2 text-right">{number * 31 % 997 + each}</td></tr>'
            for each in range(36)
        )
        return f'<table id="prices" class="w-full text-sm">{"".join(rows)}</table>'
    return {
        "id": "chatcmpl-BPc7sEvxzbkmVvXWHCTS8GgBkzIBb",
        "object": "chat.completion.chunk",
        "created": 1_745_400_000,
        "model": "gpt-4.1-2025-04-14",
        "system_fingerprint": "fp_b38e740b47",
        "choices": [
            {"index": 0, "delta": {"content": chosen.choice(words)}, "finish_reason": None}
        ],
    }


async def chunks() -> AsyncIterator[Any]:
    global clients
    clients += 1
    try:
        while True:
            await turn.wait()
            yield item_of("LLM")
    finally:
        clients -= 1


class Opened(EventSourceResponse):
    open_delay = 0


@routes.get("/{name}/{kind}")
async def stream(name: str, kind: str) -> Response:
    compress = name == "sserpent"
    if kind == "LLM":
        return Opened(chunks(), compress=compress)
    return kinds[kind].subscribe(compress=compress)


@routes.post("/{kind}")
async def publish(kind: str, count: int = 1) -> None:
    global turn
    if kind == "LLM":
        before, turn = turn, asyncio.Event()
        before.set()
        return
    for _ in range(count):
        await kinds[kind].publish(item_of(kind))


@routes.get("/clients")
async def count_clients() -> int:
    """How many generators run; subscribers of a channel are there when their headers are."""
    return clients


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Only what `starlette-compress` is to compress goes through it."""
    wrapped = scope["type"] == "http" and scope["path"].startswith("/starlette-compress/")
    await (middleware if wrapped else routes)(scope, receive, send)
