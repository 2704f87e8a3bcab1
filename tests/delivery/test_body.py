"""All bytes of a body come from one object, on both event loops and for each kind of content."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from typing import Any

import anyio
import pytest

from asgi import Connection
from sserpent import EventSourceResponse
from sserpent._delivery import on_asyncio, on_trio
from sserpent._delivery.sender import Sender, TaskSender
from sserpent._delivery.wire import KEEPALIVE_COMMENT, Body
from sserpent.channels import Channels
from timelines import timeline

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class InCapitals:
    """Stands before what is pending, as a compression would."""

    def __init__(self, pending: Any) -> None:
        self._pending = pending

    def take(self) -> bytes:
        return bytes(self._pending.take()).upper()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pending, name)


class BodyInCapitals(Body):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pending = InCapitals(self.pending)

    def ping(self, keepalive: bytes) -> Any:
        return super().ping(keepalive.upper())

    def end(self, *args: Any) -> Any:
        message = super().end(*args)
        return {**message, "body": message["body"].upper()}


@pytest.fixture(autouse=True, params=[Sender, TaskSender], ids=["steps", "tasks"])
def _in_capitals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_asyncio, "make_sender", request.param)
    for module in (on_asyncio, on_trio):
        monkeypatch.setattr(module, "Body", BodyInCapitals)


async def test_events_keep_alives_and_the_farewell_of_a_generator() -> None:
    async def content() -> AsyncIterator[str]:
        yield "one"
        yield "two"
        await anyio.sleep(3)
        yield "three"
        await anyio.sleep(100)

    sent = "".join(text for _, text in await timeline(content, 90, ping_interval=2, max_duration=5))
    assert sent.startswith('headersDATA: "ONE"\n\nDATA: "TWO"\n\n: PING\nDATA: "THREE"\n\n')
    assert ": GOODBYE\nRETRY: " in sent
    assert sent.endswith("END")


def sync_content() -> Iterator[str]:
    yield "one"
    yield "two"


async def test_events_of_a_sync_generator() -> None:
    connection = Connection()
    await connection.run(EventSourceResponse(sync_content(), ping_interval=None))
    assert received(connection) == 'DATA: "ONE"\n\nDATA: "TWO"\n\n'


async def test_events_of_a_channel() -> None:
    connection = Connection()
    async with Channels() as channels, anyio.create_task_group() as tasks:
        channel = channels.channel("news", str)
        tasks.start_soon(connection.run, channel.subscribe(max_duration=2))
        await connection.until(lambda: connection.messages)
        await channel.publish("one")
    sent = received(connection)
    assert 'DATA: "ONE"\n' in sent
    assert sent == sent.upper()


def received(connection: Connection) -> str:
    return b"".join(each.get("body", b"") for each in connection.messages).decode()


class Response:
    _source = None
    _gzip = False


def test_an_event_alone_has_the_same_message_from_the_core(core: Any) -> None:
    """`BaseSender.flush` makes it for each event that trickles."""
    messages: list[Any] = []

    class Sender(core.BaseSender):  # type: ignore[misc, name-defined]
        def _failed(self, error: BaseException) -> None:
            raise error

    class Loop:
        def time(self) -> float:
            return 0

    async def send(message: Any) -> None:
        messages.append(message)

    buffer = core.Buffer()
    body = Body(Response(), buffer, None)  # type: ignore[arg-type]
    sender = Sender(send, body.pending, Loop(), copy_context(), {})
    sender.is_open = True
    buffer.push("one")
    sender.flush()
    buffer.push("one")
    assert messages == [body.events()]
    assert list(messages[0]) == list(body.ping(KEEPALIVE_COMMENT))
