"""The application that the tests of delivery and shutdown run on real servers. What happens
inside is written to standard output, which the tests read."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import psutil
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import sserpent
from sserpent import EventSourceResponse, ServerSentEvent


def note(text: str) -> None:
    os.write(1, f"{text}\n".encode())


app = FastAPI()


@app.get("/pid")
async def pid() -> int:
    return os.getpid()


@app.get("/resources")
async def resources() -> dict[str, int]:
    process = psutil.Process()
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "files": process.num_fds(),
        "memory": process.memory_info().rss,
    }


@app.get("/sync-route")
def sync_route() -> str:
    return "answered"


class Counted(EventSourceResponse):
    async def on_disconnect(self) -> None:
        await anyio.lowlevel.checkpoint()
        note("told")


class Patient(Counted):
    """For a generator or client that would hold the server's exit for longer."""

    cleanup_timeout = 1.0


@app.get("/idle", response_class=Counted)
async def idle() -> AsyncIterator[str]:
    note("opened")
    try:
        yield "first"
        await anyio.sleep(3600)
    finally:
        await closing()


@app.post("/echo", response_class=Counted)
async def echo(request: Request) -> AsyncIterator[Any]:
    try:
        yield "before"
        yield await request.json()
    finally:
        note("echo closed")


@app.post("/upload", response_class=Counted)
async def upload(request: Request) -> AsyncIterator[Any]:
    """Reads a part of the body, and no more."""
    try:
        await request.stream().__anext__()
        note("read a part")
        yield "progress"
        await anyio.sleep(3600)
    finally:
        note("upload closed")


class Replaying:
    """A middleware that gives the body to whoever asks, again and again: it hides that the client
    has left."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more_body = b"", True
        while more_body:
            message = await receive()
            body += message.get("body", b"")
            more_body = message.get("more_body", False)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)


app.mount("/replayed", Replaying(app))


async def closing() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.01)
    note("closed")


@app.get("/ticking", response_class=Counted)
async def ticking(every: float = 0.01) -> AsyncIterator[int]:
    note("opened")
    try:
        number = 0
        while True:
            yield number
            number += 1
            await anyio.sleep(every)
    finally:
        await closing()


@app.get("/sync-idle", response_class=Patient)
def sync_idle(seconds: float = 3600) -> Iterator[str]:
    try:
        yield "first"
        time.sleep(seconds)
    finally:
        note("closed")


@app.get("/sync-awaits", response_class=Counted)
def sync_awaits() -> Iterator[str]:
    try:
        yield "first"
        anyio.from_thread.run(anyio.sleep, 3600)
    finally:
        anyio.from_thread.run(anyio.sleep, 0.05)
        note("closed")


@app.get("/sync-ticking", response_class=Counted)
def sync_ticking() -> Iterator[int]:
    note("opened")
    try:
        number = 0
        while True:
            yield number
            number += 1
            time.sleep(0.01)
    finally:
        note("closed")


class Graceful(EventSourceResponse):
    shutdown_grace = 10.0


@app.get("/goodbye", response_class=Graceful)
async def goodbye() -> AsyncIterator[ServerSentEvent]:
    note("opened")
    yield ServerSentEvent(data="hello")
    await sserpent.shutdown_event().wait()
    yield ServerSentEvent(event="goodbye", data=sserpent.shutdown_event().is_set())
    note("closed")


@app.get("/sync-goodbye", response_class=Graceful)
def sync_goodbye() -> Iterator[ServerSentEvent]:
    note("opened")
    shutdown = sserpent.shutdown_event()
    yield ServerSentEvent(data="hello")
    while not shutdown.is_set():
        time.sleep(0.01)
    yield ServerSentEvent(event="goodbye", data=True)
    note("closed")


@app.get("/never-read", response_class=EventSourceResponse)
async def never_read() -> AsyncIterator[str]:
    note("opened")
    text = "x" * 1000
    try:
        while True:
            yield text
    finally:
        note("closed")


yielded = 0


@app.get("/flood", response_class=EventSourceResponse)
async def flood() -> AsyncIterator[str]:
    global yielded
    text = "x" * 10_000
    try:
        while True:
            yield text
            yielded += len(text)
            await anyio.lowlevel.checkpoint()
    finally:
        note("closed")


@app.get("/yielded")
async def count_yielded() -> int:
    return yielded


class Impatient(Counted):
    send_timeout = 0.2


@app.get("/stalled", response_class=Impatient)
async def stalled() -> AsyncIterator[str]:
    note("opened")
    try:
        while True:
            yield "x" * 1000
    finally:
        note("closed")


class LessPatient(Counted):
    send_timeout = 1.0


@app.get("/much", response_class=LessPatient)
async def much() -> AsyncIterator[str]:
    try:
        while True:
            yield "x" * 50_000
    finally:
        note("closed")


async def slowly() -> None:
    note("accepted")
    while not signalled.is_set():
        await anyio.sleep(0.01)
    await anyio.sleep(0.5)  # until the server has noticed too


signalled = threading.Event()


@app.get("/late", response_class=Counted)
async def late(_: Annotated[None, Depends(slowly)]) -> AsyncIterator[str]:
    """Accepted before a signal, and begins to stream after it."""
    yield "never"


async def session() -> AsyncIterator[None]:
    """A dependency that works until the client has had time to leave."""
    try:
        note("working")
        await anyio.sleep(0.5)
        yield
    finally:
        note("session closed")


@app.get("/left", response_class=Counted)
async def left(_: Annotated[None, Depends(session)]) -> AsyncIterator[str]:
    await anyio.sleep(3600)
    yield "never"


@app.get("/left-sync", response_class=Counted)
def left_sync(_: Annotated[None, Depends(session)]) -> Iterator[str]:
    threading.Event().wait(2)
    yield "never"


@app.get("/hold", response_class=Counted)
async def hold() -> AsyncIterator[str]:
    """Holds the server's exit for a moment, and tells the other that it has begun."""
    yield "first"
    try:
        await sserpent.shutdown_event().wait()
    finally:
        signalled.set()


@app.get("/unread", response_class=Patient)
async def unread() -> AsyncIterator[str]:
    """For a client that does not read; without a send_timeout."""
    try:
        yield "x" * 1_000_000
        note("begun")
        while True:
            yield "x" * 1_000_000
    finally:
        note("closed")


class PatientAndTimed(Patient):
    send_timeout = 0.7


app.get("/timed-unread", response_class=PatientAndTimed)(unread)


class PatientAndGraceful(Patient):
    shutdown_grace = 2.0


@app.get("/unread-goodbye", response_class=PatientAndGraceful)
async def unread_goodbye() -> AsyncIterator[str]:
    """It ends by itself when the server does."""
    yield "x" * 20_000_000
    note("begun")
    await sserpent.shutdown_event().wait()
    note("closed")


@app.get("/unread-end", response_class=Patient)
async def unread_end() -> AsyncIterator[str]:
    """The generator ends, and the last send of many bytes stalls."""
    try:
        note("begun")
        yield "x" * 20_000_000
    finally:
        note("closed")


@app.get("/numbers", response_class=EventSourceResponse)
async def numbers(n: int, pause: int = 0) -> AsyncIterator[int]:
    for number in range(n):
        yield number
        if pause and number % pause == 0:
            await anyio.lowlevel.checkpoint()


@app.get("/asking", response_class=EventSourceResponse)
async def asking(request: Request) -> AsyncIterator[int]:
    """The pattern of many an application: poll the request for a disconnect."""
    number = 0
    try:
        while not await request.is_disconnected():
            yield number
            number += 1
            await anyio.sleep(0.001)
    finally:
        note("closed")


@app.get("/fails", response_class=EventSourceResponse)
async def fails(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number
    raise LookupError("failed on purpose")


@app.get("/fails-sync", response_class=EventSourceResponse)
def fails_sync(n: int) -> Iterator[int]:
    yield from range(n)
    raise LookupError("failed on purpose")


@app.get("/unencodable", response_class=EventSourceResponse)
async def unencodable() -> AsyncIterator[Any]:
    yield "fine"
    yield threading.Lock()


@app.get("/blocking", response_class=EventSourceResponse)
async def blocking() -> AsyncIterator[float]:
    for _ in range(5):
        time.sleep(0.05)  # noqa: ASYNC251 - what this route is for
        yield time.time()


@app.get("/silent", response_class=EventSourceResponse)
async def silent() -> AsyncIterator[str]:
    await anyio.sleep(3600)
    yield "never"


async def watched() -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        note(f"thrown into a dependency: {error!r}")
        raise


class Cancelling(EventSourceResponse):
    async def on_disconnect(self) -> None:
        note("told")
        raise asyncio.CancelledError


@app.get("/cancelling", response_class=Cancelling)
async def cancelling(_: Annotated[None, Depends(watched)]) -> AsyncIterator[str]:
    try:
        yield "first"
        await anyio.sleep(3600)
    finally:
        await closing()


class Pinged(EventSourceResponse):
    ping_interval = 0.02


@app.get("/pinged", response_class=Pinged)
async def pinged() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(data="first", id="1")
    await anyio.sleep(3600)


class Framed(Pinged):
    framed = True

    def on_disconnect(self) -> None:
        note("framed: told")


@app.get("/framed", response_class=Framed)
async def framed() -> AsyncIterator[Any]:
    yield "data: fi"
    await anyio.sleep(0.2)  # for pings that must not be
    yield b"rst\n\n"
    await anyio.sleep(3600)


@app.get("/wrapped")
async def wrapped() -> EventSourceResponse:
    async def upper(chunks: Any) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk.upper()

    response = Framed(framed())
    response.body_iterator = upper(response.body_iterator)
    return response


# An application that handles signals itself.

if "OWN_SIGNALS" in os.environ:

    def own_handler(number: int, frame: Any) -> None:
        note(f"own handler {number}")
        if number == signal.SIGTERM:
            previous(number, frame)

    @app.get("/take-signals")
    async def take_signals() -> JSONResponse:
        global previous
        previous = signal.signal(signal.SIGTERM, own_handler)
        signal.signal(signal.SIGINT, own_handler)
        return JSONResponse(getattr(previous, "__qualname__", repr(previous)))


# A uvicorn in a thread, stopped without a signal; and two in one process.


def run_in_threads(*ports: int) -> None:
    import uvicorn

    servers = [uvicorn.Server(uvicorn.Config(app, port=port)) for port in ports]
    threads = [threading.Thread(target=server.run) for server in servers]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        which = int(line)
        servers[which].should_exit = True
        threads[which].join(15)
        note(f"server {which} {'hangs' if threads[which].is_alive() else 'ended'}")
    os._exit(0)


def run_on_one_loop(*ports: int) -> None:
    import uvicorn

    servers = [uvicorn.Server(uvicorn.Config(app, port=port)) for port in ports]

    async def serve(which: int) -> None:
        # `serve` captures signals, which only one of them can.
        await servers[which]._serve()
        note(f"server {which} ended")

    async def main() -> None:
        tasks = [asyncio.create_task(serve(which)) for which in range(len(servers))]
        while True:
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                break
            servers[int(line)].should_exit = True
        await asyncio.wait(tasks)

    asyncio.run(main())


if __name__ == "__main__":
    run = {"threads": run_in_threads, "loop": run_on_one_loop}[sys.argv[1]]
    run(*map(int, sys.argv[2:]))
