"""The delivery application with routes that put signal handlers on top, chain and restore them."""

import signal
from typing import Any

from delivery_app import app, note

# What a route saved, by name: handlers of SIGTERM.
saved: dict[str, Any] = {}


@app.get("/save/{name}")
async def save(name: str) -> str:
    saved[name] = signal.getsignal(signal.SIGTERM)
    return repr(saved[name])


@app.get("/restore/{name}")
async def restore(name: str) -> None:
    signal.signal(signal.SIGTERM, saved[name])


@app.get("/put-on-top-of/{name}")
async def put_on_top(name: str) -> None:
    def own_handler(number: int, frame: Any) -> None:
        note("own handler")
        if callable(saved[name]):
            saved[name](number, frame)

    signal.signal(signal.SIGTERM, own_handler)


@app.get("/handler")
async def handler() -> str:
    return repr(signal.getsignal(signal.SIGTERM))
