"""A hand-made ASGI server for one request, for tests that need to hold each end of the stream.

It stays beside `sserpent.testing`, whose client reads a body: here a test has each message as it
was sent, stops any `send`, also that of the headers and of the end, gives a scope of its own, and
calls a response without an application.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio


class Connection:
    """One request and what came back.

    `stall()` makes `send` block, as a server does whose client has stopped reading, until
    `unstall()`; `disconnect()` is the client that leaves.
    """

    def __init__(self, path: str = "/", method: str = "GET", **scope: Any) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "server": ("testserver", 80),
            "client": ("testclient", 1),
            **scope,
        }
        self.messages: list[Any] = []
        self._gone = anyio.Event()
        self._open = anyio.Event()
        self._open.set()
        self._news = anyio.Event()
        self._body_read = False
        self.stalled = False
        self.sending = 0

    async def receive(self) -> Any:
        if not self._body_read:
            self._body_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        assert self.sending == 0, "send was called while a send was in progress"
        self.sending += 1
        try:
            while not self._open.is_set():
                self.stalled = True
                await self._open.wait()
            self.stalled = False
            self.messages.append(message)
            self._news.set()
        finally:
            self.sending -= 1

    def disconnect(self) -> None:
        self._gone.set()

    def stall(self) -> None:
        if self._open.is_set():
            self._open = anyio.Event()

    def unstall(self) -> None:
        self._open.set()

    async def until(self, condition: Callable[[], Any], timeout: float = 20) -> None:
        """Waits for a condition on what has been sent."""
        with anyio.fail_after(timeout):
            while not condition():
                await anyio.sleep(0.001)

    async def run(self, app: Any) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def started(self) -> bool:
        return any(m["type"] == "http.response.start" for m in self.messages)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.messages[0]["headers"]}

    @property
    def bodies(self) -> list[bytes]:
        return [m["body"] for m in self.messages if m["type"] == "http.response.body" and m["body"]]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def complete(self) -> bool:
        last = self.messages[-1] if self.messages else {"type": "nothing"}
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    @property
    def data(self) -> list[str]:
        """The data lines of all whole events."""
        text = self.body.decode()
        assert text == "" or text.endswith("\n"), f"half a line on the wire: {text[-80:]!r}"
        return [line[6:] for line in text.split("\n") if line.startswith("data: ")]


class Left(Connection):
    """A client that has left before the application asks for it: `receive` never suspends. Real
    servers are like that while a dependency works.

    Args:
        how: One of `WAYS_TO_LEAVE`.
    """

    def __init__(self, how: str = "says so", **scope: Any) -> None:
        super().__init__(**scope)
        self._messages: list[Any] = []
        self._error = ConnectionResetError() if how == "raises" else None
        if how == "after its body":
            self._messages = [http_request(b"whole")]
        elif how == "in its body":
            self._messages = [http_request(b"half", more_body=True)]
        self.disconnect()

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        if self._error is not None:
            raise self._error
        return {"type": "http.disconnect"}


WAYS_TO_LEAVE = ["says so", "raises", "after its body", "in its body"]


class Replaying(Connection):
    """A client behind a middleware that gives the body to whoever asks, again and again, without
    waiting: it breaks ASGI, and middlewares that log bodies do it.

    Args:
        message: What is different in the message.
        tells: Whether it says that the client has left.
    """

    def __init__(
        self, message: dict[str, Any] | None = None, tells: bool = True, **scope: Any
    ) -> None:
        super().__init__(**scope)
        self._message = {**http_request(b"{}"), **(message or {})}
        self._tells = tells
        self.asked = 0

    async def receive(self) -> Any:
        self.asked += 1
        assert self.asked < 10_000, "the application asks without a pause"
        if self._tells and self._gone.is_set():
            return {"type": "http.disconnect"}
        return self._message


def http_request(body: bytes, more_body: bool = False) -> Any:
    return {"type": "http.request", "body": body, "more_body": more_body}
