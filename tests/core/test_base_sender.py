"""`BaseSender`, over both backends: what is pending is sent in the turn of whoever asks for it."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from types import ModuleType, coroutine
from typing import Any

import pytest

# Each over both backends, by the fixture `core` alone.
pytestmark = pytest.mark.once

AWAITED = object()
variable: ContextVar[str] = ContextVar("variable", default="outside")


@coroutine
def suspend(value: Any) -> Any:
    return (yield value)


class Loop:
    """Its time grows by 1 with each question."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        self.now += 1
        return self.now


class Source:
    """Is neither a buffer nor a meter."""

    def __init__(self, buffer: Any) -> None:
        self.take = buffer.take


class Server:
    """Has a sender, notes what it sends and what it asks of its subclass."""

    def __init__(self, core: ModuleType, wrap: Any = lambda core, buffer: buffer) -> None:
        class Sender(core.BaseSender):  # type: ignore[misc, name-defined]
            __slots__ = ("server",)

            def _flush_closed(self) -> None:
                self.server.calls.append("closed")

            def _wait_for(self, awaited: object) -> None:
                self.server.calls.append(awaited)

            def _failed(self, error: BaseException) -> None:
                self.server.calls.append(error)

            def _finish(self) -> None:
                self.server.calls.append("finished")

        self.loop = Loop()
        self.current: dict[Any, Any] = {}
        self.buffer = core.Buffer()
        self.sender = Sender(
            self.send, wrap(core, self.buffer), self.loop, copy_context(), self.current
        )
        self.sender.server = self
        self.calls: list[Any] = []
        self.messages: list[Any] = []
        self.during: Any = lambda: None

    async def send(self, message: Any) -> None:
        variable.set("inside")
        self.messages.append(message)
        assert self.current == {self.loop: self.sender}
        assert self.sender.in_progress is not None
        self.sender.flush()  # does nothing while one is in progress
        awaited = self.during()
        if awaited is not None:
            await suspend(awaited)


def message(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda core, buffer: buffer,
        lambda core, buffer: core.Meter(buffer, lambda: None),
        lambda core, buffer: Source(buffer),
    ],
    ids=["buffer", "meter", "source"],
)
def test_it_sends_what_is_pending(core: ModuleType, wrap: Any) -> None:
    server = Server(core, wrap)
    sender = server.sender
    sender.is_open = True
    sender.flush()
    assert server.messages == [], "nothing is pending"
    assert sender.sent_at == 1
    for each in (1, 2):
        server.buffer.push(each)
        sender.flush()
        sender.flush()
    first, second = server.messages
    assert (first, second) == (message(b"data: 1\n\n"), message(b"data: 2\n\n"))
    assert first is not second, "a server may keep them, or change them"
    assert sender.in_progress is None
    assert sender.sent_at == 3
    assert server.calls == []
    assert server.current == {}
    assert (variable.get(), sender.context[variable]) == ("outside", "inside")


def test_it_does_not_send_while_it_is_closed(core: ModuleType) -> None:
    server = Server(core)
    server.buffer.push(1)
    server.sender.flush()
    assert (server.calls, server.messages) == (["closed"], [])
    assert server.buffer.pending


def test_a_send_that_waits_stays_in_progress(core: ModuleType) -> None:
    server = Server(core)
    server.sender.is_open = True
    server.during = lambda: AWAITED
    server.buffer.push(1)
    server.sender.flush()
    assert server.calls == [AWAITED]
    assert server.sender.sent_at == 1
    server.buffer.push(2)
    server.sender.flush()
    assert len(server.messages) == 1
    assert server.buffer.pending
    server.sender.in_progress.close()
    server.sender.in_progress = None


def test_a_send_that_was_cancelled_and_has_ended_is_the_subclass_s(core: ModuleType) -> None:
    server = Server(core)
    server.sender.is_open = True
    server.during = lambda: setattr(server.sender, "cancellations", 1)
    server.buffer.push(1)
    server.sender.flush()
    assert server.calls == ["finished"]
    assert server.sender.in_progress is not None


@pytest.mark.parametrize("error", [ValueError(), BaseException()])
def test_a_send_that_fails_is_the_subclass_s(core: ModuleType, error: BaseException) -> None:
    def fail() -> None:
        raise error

    server = Server(core)
    server.sender.is_open = True
    server.during = fail
    server.buffer.push(1)
    server.sender.flush()
    assert server.calls == [error]
    assert server.current == {}


def test_another_send_can_be_given(core: ModuleType) -> None:
    server = Server(core)
    server.sender.is_open = True
    bodies = []

    async def send(message: Any) -> None:
        bodies.append(message["body"])

    assert server.sender.send == server.send
    server.sender.send = send
    server.buffer.push(1)
    server.sender.flush()
    assert bodies == [b"data: 1\n\n"]
    assert server.messages == []
