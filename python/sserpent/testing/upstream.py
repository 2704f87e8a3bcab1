"""An upstream by script, for tests of what reads a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from math import isnan
from typing import Any

from anyio import CancelScope, Event, create_task_group, fail_after, sleep
from starlette.types import Receive, Scope, Send

# A part of a script.
Step = bytes | float | BaseException


class UpstreamRequest:
    """A request that a `FakeUpstream` got.

    Attributes:
        method: Its method.
        path: Its path.
        query: Its query string.
        headers: Its headers, the names in lower case.
        body: Its body.
        sent: How many steps of the script are done.
        client_left: Whether the client has left before the end of the script.
    """

    __module__ = "sserpent.testing"

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.body = b""
        self.sent = 0
        self.client_left = False
        self._ended = Event()

    async def ended(self, timeout: float = 5.0) -> None:
        """Waits until the client has left or the script has come to its end.

        Raises:
            TimeoutError: neither within `timeout` seconds.
        """
        try:
            with fail_after(timeout):
                await self._ended.wait()
        except TimeoutError:
            raise TimeoutError(
                f"{self.method} {self.path}: the client was still there after {timeout} s, and"
                f" {self.sent} steps of the script were done"
            ) from None


class FakeUpstream:
    """An ASGI application that answers every request with the same steps. To answer each request
    with other steps, see `sequence`.

    Args:
        script: The steps of a response. Bytes are sent, and read, as one chunk. A number is a wait
            in seconds (`math.inf` for ever). An exception is raised, which cuts the response. After
            the last step the response ends.
        status: The status of the response, 200 unless given.
        headers: Its headers; `Content-Type: text/event-stream` unless given.

    Attributes:
        requests: The requests that came, in order.

    Raises:
        TypeError: the script is no list, or a step is something else; the message names it.
        ValueError: a number is negative or NaN.
    """

    __module__ = "sserpent.testing"

    def __init__(
        self,
        script: Sequence[Step],
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        self._script = _checked("script", script)
        self.requests: list[UpstreamRequest] = []
        # Answers the next requests, if each has a script of its own.
        self._answers: Iterator[FakeUpstream] | None = None
        self._status = status
        self._headers = {"Content-Type": "text/event-stream"} if headers is None else headers

    @classmethod
    def sequence(cls, *scripts: Sequence[Step] | FakeUpstream) -> FakeUpstream:
        """Returns an application that answers the first request with the first script, the second
        request with the second script, and so on. All later requests get a 204, at which clients
        stop reconnecting.

        Args:
            scripts: Each as `FakeUpstream` takes it, or a `FakeUpstream`, with a status and
                headers of its own.

        Raises:
            TypeError, ValueError: as `FakeUpstream`; the message names the script.
        """
        answers: list[FakeUpstream] = []
        for number, script in enumerate(scripts):
            if isinstance(script, FakeUpstream):
                answers.append(script)
                continue
            answers.append(cls(_checked(f"scripts[{number}]", script)))
        upstream = cls([])
        nothing_to_come = cls([], status=204, headers={})
        upstream._answers = chain(answers, repeat(nothing_to_come))
        return upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await self._take(UpstreamRequest(scope), receive, send)

    async def _take(self, request: UpstreamRequest, receive: Receive, send: Send) -> None:
        self.requests.append(request)
        if self._answers is None:
            await self._answer(request, receive, send)
        else:
            await next(self._answers)._take(request, receive, send)

    async def _answer(self, request: UpstreamRequest, receive: Receive, send: Send) -> None:
        error: BaseException | None = None
        try:
            if await _read_body(request, receive):
                async with create_task_group() as tasks:
                    tasks.start_soon(self._watch, request, receive, tasks.cancel_scope)
                    error = await self._play(request, send)
                    tasks.cancel_scope.cancel()
        finally:
            request._ended.set()
        if error is not None:
            raise error

    async def _play(self, request: UpstreamRequest, send: Send) -> BaseException | None:
        headers = [(name.lower().encode(), text.encode()) for name, text in self._headers.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        for step in self._script:
            if isinstance(step, BaseException):
                return step
            if isinstance(step, bytes):
                await send({"type": "http.response.body", "body": step, "more_body": True})
            else:
                await sleep(step)
            request.sent += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    async def _watch(self, request: UpstreamRequest, receive: Receive, play: CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # Servers say it at the end of a response too.
        request.client_left = request.sent < len(self._script)
        play.cancel()


async def _read_body(request: UpstreamRequest, receive: Receive) -> bool:
    """Reads the body; whether the client is still there after it."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            request.client_left = True
            return False
        request.body += message.get("body", b"")
        more = message.get("more_body", False)
    return True


def _checked(name: str, script: Any) -> list[Step]:
    kind = type(script).__name__
    if isinstance(script, (str, bytes, bytearray, memoryview)) or not isinstance(script, Iterable):
        raise TypeError(f"'{name}' must be a list of steps, not {kind}")
    steps: list[Step] = list(script)  # pyright: ignore[reportUnknownArgumentType]
    for number, step in enumerate(steps):
        _check_step(f"{name}[{number}]", step)
    return steps


def _check_step(name: str, step: object) -> None:
    if isinstance(step, (bytes, BaseException)):
        return
    if isinstance(step, bool) or not isinstance(step, (int, float)):
        raise TypeError(
            f"'{name}' must be bytes, a number of seconds or an exception,"
            f" not {type(step).__name__}"
        )
    if isnan(step) or step < 0:
        raise ValueError(f"'{name}' must be a number of seconds from 0 on, not {step!r}")
