"""A transport of httpx2 or httpx that calls an ASGI application, and streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any

from anyio import CancelScope, move_on_after
from starlette.types import ASGIApp, Scope

from .._shutdown.connections import Candidate
from .._shutdown.servers import Address, Server, announce
from .exchange import Cut, Exchange, NothingCame

# The key of a response's extensions under which its `BodyStream` is.
BODY = "sserpent.body"

# Each server has an address of its own: open streams are kept by it.
_ports = count(1)


def checked_library(http_library: Any) -> Any:
    """Returns httpx2, httpx, or the one that is given.

    Raises:
        ImportError: neither is installed.
        TypeError: `http_library` is something else.
    """
    if http_library is not None:
        if not hasattr(http_library, "AsyncBaseTransport"):
            raise TypeError(
                f"'http_library' must be the module httpx2 or httpx, not {http_library!r}"
            )
        return http_library
    for name in ("httpx2", "httpx"):
        if find_spec(name) is not None:
            return import_module(name)
    raise ImportError(
        "sserpent.testing needs an HTTP client: pip install 'sserpent[testing]', which brings"
        " httpx2, or httpx"
    )


class AnnouncedServer(Server):
    """The server in process, as `sserpent._shutdown` knows servers: referred to weakly."""

    def is_exiting(self) -> bool:
        return self.owner is None or bool(self.owner.exiting)

    def requests(self) -> Iterator[Candidate]:
        for exchange in self.owner.exchanges:
            yield Candidate(exchange.scope, exchange)


class ServerInProcess:
    """The server that an application runs on.

    Attributes:
        exiting: Whether it has begun to shut down.
        address: What stands for it.
        exchanges: The requests that have not ended, and those whose error no test has seen.
        timeout: How many seconds anything may take.
    """

    def __init__(self, app: ASGIApp, state: dict[str, Any], timeout: float) -> None:
        self.exiting = False
        self.address: Address = ("testserver", next(_ports))
        self.exchanges: list[Exchange] = []
        self.timeout = timeout
        self._app = app
        self._state = state
        self._client_ports = count(50_000)
        self._announced = AnnouncedServer(self)
        announce(self._announced, self.address)

    def begin(self, request: Any) -> Exchange:
        """Calls the application, in a task of its own."""
        self.exchanges = [each for each in self.exchanges if not each.is_done]
        exchange = Exchange(self._app, self._scope_of(request), request.stream)
        self.exchanges.append(exchange)
        return exchange

    def _scope_of(self, request: Any) -> Scope:
        url = request.url
        return {
            "type": "http",
            # As uvicorn's: from 2.4 on, `send` would raise after the client has left.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": self.address,
            "client": ("testclient", next(self._client_ports)),
            "state": self._state.copy(),
        }

    async def close(self) -> None:
        """Has all clients leave.

        Raises:
            TimeoutError: an application still ran after `timeout`, and was cancelled.
            BaseException: what an application has raised without the test having heard of it.
        """
        for exchange in self.exchanges:
            exchange.leave()
        errors: list[BaseException] = []
        for exchange in self.exchanges:
            try:
                await self.end(exchange)
            except TimeoutError as error:
                errors.append(error)
            if exchange.has_unseen_error and exchange.error is not None:
                errors.append(exchange.error)
        if errors:
            raise errors[0]

    async def end(self, exchange: Exchange) -> None:
        """Has the client leave, and waits for the application's cleanup.

        Raises:
            TimeoutError: the application still ran after `timeout`, and was cancelled.
        """
        exchange.leave()
        # A test that is cancelled leaves no task behind.
        with CancelScope(shield=True):
            if await exchange.task.has_ended(within=self.timeout):
                return
            exchange.task.cancel()
            await exchange.task.has_ended(within=self.timeout)
        became = "was cancelled" if exchange.task.ended else "goes on after a cancellation"
        raise TimeoutError(
            f"{exchange.name}: the application still ran {self.timeout} s after its client had"
            f" left, and {became}"
        )


class BodyStream:
    """The body of a response, as an `AsyncClient` and `Events` read it."""

    def __init__(self, exchange: Exchange, server: ServerInProcess, library: Any, request: Any):
        self.exchange = exchange
        self.server = server
        self._library = library
        self._request = request

    async def read(self, timeout: float | None) -> bytes:
        """Returns the next bytes, and nothing at the end.

        Raises:
            RemoteProtocolError: httpx's, the connection was lost. What the application has raised
                is its cause.
            NothingCame: within `timeout` seconds.
        """
        try:
            return await self.exchange.read(timeout)
        except Cut as error:
            lost = self._library.RemoteProtocolError(str(error), request=self._request)
            raise lost from error.__cause__

    # No generator, which would have to be closed.
    def __aiter__(self) -> BodyStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self.read(_read_timeout(self._request))
        except NothingCame as error:
            raise self._library.ReadTimeout(str(error), request=self._request) from None
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Ends the exchange, as a client that leaves does."""
        await self.server.end(self.exchange)


class Transport:
    """Answers the requests of an `AsyncClient`."""

    def __init__(self, server: ServerInProcess, library: Any) -> None:
        self._server = server
        self._library = library
        # The clients ask for their own class.
        self._stream_class: Any = type("BodyStream", (BodyStream, library.AsyncByteStream), {})

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends nothing: the server does."""

    async def handle_async_request(self, request: Any) -> Any:
        """Begins a request, and returns its response when the headers have come.

        Raises:
            ReadTimeout: no headers came within the timeout for reading.
        """
        exchange = self._server.begin(request)
        try:
            await exchange.started(_read_timeout(request))
        except BaseException as error:
            with suppress(TimeoutError):
                await self._server.end(exchange)
            if isinstance(error, NothingCame):
                raise self._library.ReadTimeout(str(error), request=request) from None
            raise
        body = self._stream_class(exchange, self._server, self._library, request)
        return self._library.Response(
            exchange.status, headers=exchange.headers, stream=body, extensions={BODY: body}
        )


def client_class(library: Any) -> Any:
    """Returns an `AsyncClient` whose read timeout bounds whole responses too: that of the library
    begins anew with each chunk, and an endless stream would be read for ever."""

    async def send(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        response = await library.AsyncClient.send(self, request, stream=True, **options)
        if stream:
            return response
        timeout = _read_timeout(request)
        try:
            with move_on_after(timeout):
                await response.aread()
                return response
            raise library.ReadTimeout(
                f"{request.method} {request.url.path}: the response did not end within {timeout} s;"
                " an endless stream is read with client.events() or client.stream()",
                request=request,
            )
        finally:
            await response.aclose()

    return type("AsyncClient", (library.AsyncClient,), {"send": send})


def _read_timeout(request: Any) -> float | None:
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout
