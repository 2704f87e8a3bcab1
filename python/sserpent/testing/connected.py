"""`connect`: a client that really streams, in process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from anyio import CancelScope, move_on_after
from starlette.types import ASGIApp

from .. import _shutdown
from .._runtime.checks import checked_seconds, wrong_type
from ..client.requesting import send_last_event_id
from ..client.responses import is_event_stream
from .events import Events
from .lifespan import Lifespan
from .transport import ServerInProcess, Transport, checked_library, client_class


class Client:
    """A client of one application, made by `connect`.

    It has the methods of an `AsyncClient` too: `get`, `post`, `request`, `stream` and so on.

    Attributes:
        http: The `AsyncClient` of httpx2 or httpx, for code that takes one.
    """

    __module__ = "sserpent.testing"

    def __init__(self, http: Any, server: ServerInProcess) -> None:
        self.http = http
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["http"], name)

    @asynccontextmanager
    async def events(
        self, url: str, *, method: str = "GET", last_event_id: str = "", **request: Any
    ) -> AsyncGenerator[Events, None]:
        """Opens an event stream. At the end the client disconnects.

        Args:
            url: The path or URL of the stream.
            method: The method of the request.
            last_event_id: The last event ID, which is sent unless it is empty.
            request: Other arguments of `AsyncClient.build_request`, such as `headers`, `params` and
                `json`. `Accept` is `text/event-stream` unless you give another.

        Raises:
            AssertionError: the response is no event stream for a browser or `sserpent.client`: its
                status is not 200, or its content type is another.
            ReadTimeout: httpx's, the response did not start in time.
            BaseException: an exception of the application before the response begins. At the end, a
                later exception that no read has raised in the test.
        """
        request |= {"method": method, "url": url, "last_event_id": last_event_id}
        events = await self._open(request)
        try:
            yield events
        except BaseException:
            with suppress(Exception):
                await events._close()
            raise
        await events._close()

    async def _open(self, request: dict[str, Any]) -> Events:
        arguments = dict(request)
        last_event_id = arguments.pop("last_event_id")
        built = self.http.build_request(**arguments)
        if built.headers.get("Accept") in (None, "*/*"):
            built.headers["Accept"] = "text/event-stream"
        built.headers["Cache-Control"] = "no-store"
        # A compressed body cannot be read event by event.
        built.headers["Accept-Encoding"] = "identity"
        send_last_event_id(built, last_event_id)
        response = await self.http.send(built, stream=True)
        content_type = response.headers.get("Content-Type", "")
        if not is_event_stream(response.status_code, content_type):
            try:
                body = await response.aread()
            finally:
                await response.aclose()
            raise AssertionError(
                f"{built.method} {built.url.path}: status {response.status_code} with"
                f" {content_type or 'no content type'} is no event stream: {body[:200]!r}"
            )
        return Events(self._open, request, response)

    async def shut_down(self, timeout: float | None = None) -> None:
        """Ends the open streams as SIGTERM does, and waits for their end. You can still read their
        last events afterwards. New requests meet a server that is shutting down.

        Args:
            timeout: How many seconds they may take. The default is the `timeout` of `connect`.

        Raises:
            TimeoutError: some streams are still open; the message names them.
        """
        timeout = self._server.timeout if timeout is None else timeout
        self._server.exiting = True
        _shutdown.look()
        with move_on_after(timeout):
            for exchange in list(self._server.exchanges):
                await exchange.task.wait()
        still_open = [each for each in self._server.exchanges if not each.task.ended]
        if still_open:
            raise TimeoutError(
                f"after {timeout} s of shutdown are still open: "
                + ", ".join(f"{each.name} ({each.so_far})" for each in still_open)
            )

    async def _close(self) -> None:
        await self.http.aclose()
        await self._server.close()


def connect(
    app: ASGIApp, *, http_library: Any = None, timeout: float = 5.0
) -> AbstractAsyncContextManager[Client]:
    """Connects to an application in process. Returns an async context manager of a `Client`.

    The client gets each part of a response when the application sends it. `send` waits while 64 KiB
    are unread. The application's lifespan runs, if it has one. At the end the client disconnects,
    and waits until every task has ended.

    Args:
        app: The ASGI application.
        http_library: The module `httpx2` or `httpx`. The default is the first of them that is
            installed.
        timeout: How many seconds each step may take: to start up, to begin a response, to send the
            next bytes (or all bytes of a response that is not streamed), and to clean up after the
            client has disconnected.

    Raises:
        ImportError: neither httpx2 nor httpx is installed.
        TypeError: `http_library` is neither, `app` cannot be called, or `timeout` is no number.
        ValueError: `timeout` is no positive number.
        TimeoutError: at the end, the application still ran `timeout` seconds after its client had
            disconnected.
        BaseException: at the end, an exception of the application that no read has raised in the
            test.
    """
    if not callable(app):
        raise wrong_type("app", "an ASGI application", app)
    seconds = checked_seconds("timeout", timeout)
    return _connect(app, checked_library(http_library), seconds)


@asynccontextmanager
async def _connect(app: ASGIApp, library: Any, timeout: float) -> AsyncGenerator[Client, None]:
    lifespan = Lifespan(app, timeout)
    await lifespan.start()
    server = ServerInProcess(app, lifespan.state, timeout)
    transport = Transport(server, library)
    http = client_class(library)(transport=transport, base_url="http://testserver", timeout=timeout)
    client = Client(http, server)
    try:
        yield client
    except BaseException:
        # The error of the test counts, not those that follow from it.
        with CancelScope(shield=True), suppress(Exception):
            await _end(client, lifespan)
        raise
    with CancelScope(shield=True):
        await _end(client, lifespan)


async def _end(client: Client, lifespan: Lifespan) -> None:
    try:
        await client._close()
    finally:
        await lifespan.stop()
