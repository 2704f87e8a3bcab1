"""`Pump`, over both backends: an async iterator is run up to where its task has something to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import copy_context
from types import coroutine
from typing import Any

import pytest

# Each over both backends, by the fixture `core` alone.
pytestmark = pytest.mark.once

HELD = object()


class Clock:
    """All that a sender asks of an event loop."""

    def time(self) -> float:
        return 0.0


class Sent:
    """What a sender has sent."""

    def __init__(self, core: Any, buffer: Any) -> None:
        self.sender = core.BaseSender(self.send, buffer, Clock(), copy_context(), {})
        self.sender.is_open = True
        self.bodies: list[bytes] = []

    async def send(self, message: Any) -> None:
        self.bodies.append(message["body"])


class Pumped:
    def __init__(self, core: Any, iterator: Any, **options: Any) -> None:
        # A busy machine makes nothing due.
        self.buffer = core.Buffer(**{"max_age": 60, **options})
        self.sent = Sent(core, self.buffer)
        self.sender = self.sent.sender
        self.pump = core.Pump(iterator, self.buffer, self.sender, self.explain)
        self.refused: list[tuple[Exception, object]] = []

    def explain(self, error: Exception, item: object) -> Exception:
        self.refused.append((error, item))
        return LookupError("explained")

    async def steps(self) -> Any:
        return await self.pump


@coroutine
def suspend(value: Any) -> Any:
    return (yield value)


def ended(steps: Any, error: BaseException | None = None) -> Any:
    """What the pump returns."""
    with pytest.raises(StopIteration) as returned:
        steps.send(None) if error is None else steps.throw(error)
    return returned.value.value


def test_it_sends_when_the_iterator_suspends(core: Any) -> None:
    async def content() -> AsyncIterator[int]:
        yield 1
        yield 2
        await suspend(HELD)
        await suspend(HELD)
        yield 3

    pumped = Pumped(core, content())
    steps = pumped.steps()
    assert steps.send(None) is HELD
    assert pumped.sent.bodies == [b"data: 1\n\ndata: 2\n\n"]
    assert pumped.pump.suspended
    assert not pumped.pump.at_yield
    assert steps.send(None) is HELD
    assert len(pumped.sent.bodies) == 1, "there is nothing to send"
    assert ended(steps) is True
    assert pumped.buffer.take() == b"data: 3\n\n"


def test_it_pauses_at_a_yield_when_the_buffer_is_due(core: Any) -> None:
    async def content() -> AsyncIterator[int]:
        yield 1
        yield 2

    pumped = Pumped(core, content(), max_pending=1)
    for sent in (b"data: 1\n\n", b"data: 2\n\n"):
        assert ended(pumped.steps()) is False
        assert pumped.pump.at_yield
        assert not pumped.pump.suspended
        assert pumped.buffer.take() == sent
    assert ended(pumped.steps()) is True


def test_it_does_not_resume_the_iterator_while_the_sender_is_busy(core: Any) -> None:
    resumed = []

    async def content() -> AsyncIterator[int]:
        resumed.append(await suspend(HELD))
        yield 1

    pumped = Pumped(core, content())
    steps = pumped.steps()
    steps.send(None)
    pumped.sender.in_progress = HELD
    assert ended(steps) is False
    assert resumed == []
    assert ended(pumped.steps()) is False
    pumped.sender.in_progress = None
    assert ended(pumped.steps()) is True
    assert resumed == [None]


def test_it_stops_at_the_next_yield_without_regard_to_the_sender(core: Any) -> None:
    async def content() -> AsyncIterator[int]:
        await suspend(HELD)
        yield 1
        pytest.fail("it went on")

    pumped = Pumped(core, content())
    steps = pumped.steps()
    steps.send(None)
    pumped.sender.in_progress = HELD
    pumped.pump.stop()
    assert ended(steps) is False
    assert pumped.pump.at_yield


def test_an_error_is_thrown_into_the_iterator_where_it_is_suspended(core: Any) -> None:
    async def content() -> AsyncIterator[str]:
        try:
            await suspend(HELD)
        except KeyError as error:
            yield str(error)
        try:
            await suspend(HELD)
        except KeyError as error:
            yield str(error)
        await suspend(HELD)

    pumped = Pumped(core, content())
    steps = pumped.steps()
    steps.send(None)
    assert steps.throw(KeyError(1)) is HELD
    # It does not wait for the sender.
    pumped.sender.in_progress = HELD
    pumped.pump.throw_next(KeyError(2))
    assert steps.send(None) is HELD
    assert pumped.sent.bodies == [b'data: "1"\n\n']
    assert pumped.buffer.take() == b'data: "2"\n\n'
    with pytest.raises(ZeroDivisionError):
        steps.throw(ZeroDivisionError())


def test_an_error_is_thrown_into_the_iterator_at_its_yield(core: Any) -> None:
    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
        except KeyError:
            await suspend(HELD)
            yield "b"

    pumped = Pumped(core, content(), max_pending=1)
    assert ended(pumped.steps()) is False
    pumped.pump.throw_next(KeyError())
    steps = pumped.steps()
    assert steps.send(None) is HELD
    assert ended(steps) is False
    assert pumped.buffer.take() == b'data: "b"\n\n'


class Iterator:
    """An async iterator that is no generator."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)

    async def __anext__(self) -> Any:
        await suspend(HELD)
        outcome = self.outcomes.pop(0) if self.outcomes else StopAsyncIteration()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def test_it_runs_what_is_no_generator(core: Any) -> None:
    pumped = Pumped(core, Iterator(1, 2))
    steps = pumped.steps()
    assert [steps.send(None) for _ in range(3)] == [HELD] * 3
    assert ended(steps) is True
    assert pumped.sent.bodies == [b"data: 1\n\n", b"data: 2\n\n"]


def test_an_error_at_a_yield_of_what_has_no_athrow_is_raised(core: Any) -> None:
    pumped = Pumped(core, Iterator(1), max_pending=1)
    steps = pumped.steps()
    steps.send(None)
    assert ended(steps) is False
    pumped.pump.throw_next(KeyError("thrown"))
    with pytest.raises(KeyError, match="thrown"):
        pumped.steps().send(None)


def test_what_cannot_be_pushed_is_explained(core: Any) -> None:
    item = {"bad": object()}
    pumped = Pumped(core, Iterator(1, item))
    steps = pumped.steps()
    steps.send(None)
    steps.send(None)
    with pytest.raises(LookupError, match="explained") as raised:
        steps.send(None)
    ((error, refused),) = pumped.refused
    assert refused is item
    assert raised.value.__cause__ is error.__cause__


@pytest.mark.parametrize("error", [ValueError("raised"), BaseException("raised")])
def test_what_the_iterator_raises_is_raised(core: Any, error: BaseException) -> None:
    steps = Pumped(core, Iterator(error)).steps()
    steps.send(None)
    with pytest.raises(type(error), match="raised"):
        steps.send(None)


def test_an_iterator_that_raises_stop_iteration_has_not_returned(core: Any) -> None:
    class Stops:
        def __anext__(self) -> Any:
            raise StopIteration(True)

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        Pumped(core, Stops()).steps().send(None)


@pytest.mark.parametrize("iterator", [1, iter([]), [1]])
def test_what_is_no_async_iterator_is_refused(core: Any, iterator: Any) -> None:
    rule = f"^'iterator' must be an async iterator, not {type(iterator).__name__}$"
    with pytest.raises(TypeError, match=rule):
        Pumped(core, iterator)


class Unmarked:
    """An async iterator whose `__anext__` is no coroutine function."""

    def __init__(self, *awaitables: Any) -> None:
        self.awaitables = list(awaitables)

    def __anext__(self) -> Any:
        if not self.awaitables:
            raise StopAsyncIteration
        return self.awaitables.pop(0)


class Awaitable:
    def __init__(self, steps: Any) -> None:
        self.steps = steps

    def __await__(self) -> Any:
        return self.steps


async def item(value: Any) -> Any:
    return value


@coroutine
def item_of_a_generator(value: Any) -> Any:
    yield HELD
    return value


def test_an_iterator_ends_by_a_stop_that_is_raised_before_anything_is_awaited(core: Any) -> None:
    assert ended(Pumped(core, Unmarked()).steps()) is True
    pumped = Pumped(core, Unmarked(item(1), item_of_a_generator(2)))
    steps = pumped.steps()
    assert steps.send(None) is HELD
    assert ended(steps) is True
    assert pumped.sent.bodies == [b"data: 1\n\n"]
    assert pumped.buffer.take() == b"data: 2\n\n"


def test_an_iterator_ends_by_a_stop_that_its_athrow_raises(core: Any) -> None:
    class Stops(Unmarked):
        def athrow(self, error: BaseException) -> Any:
            raise StopAsyncIteration

    pumped = Pumped(core, Stops())
    pumped.pump.throw_next(KeyError())
    assert ended(pumped.steps()) is True


def not_marked() -> Any:
    yield HELD


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: 5, "int"),
        (lambda: None, "NoneType"),
        (lambda: iter([HELD]), "list_iterator"),
        (not_marked, "generator"),
        (lambda: Awaitable(5), r"__await__\(\) returned"),
        (lambda: Awaitable([]), r"__await__\(\) returned"),
    ],
)
def test_what_cannot_be_awaited_is_refused(core: Any, make: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Pumped(core, Unmarked(make())).steps().send(None)


def test_an_error_is_thrown_where_an_iterator_without_throw_is_awaited(core: Any) -> None:
    steps = Pumped(core, Unmarked(Awaitable(iter([HELD, HELD])))).steps()
    assert steps.send(None) is HELD
    with pytest.raises(KeyError, match="thrown"):
        steps.throw(KeyError("thrown"))


def test_a_stop_of_a_serializer_is_no_end_of_the_iterator(core: Any) -> None:
    class Stops:
        def model_dump_json(self) -> str:
            raise StopAsyncIteration

    class Explained(Pumped):
        def explain(self, error: Exception, item: object) -> Exception:
            return error

    steps = Explained(core, Iterator(core.ServerSentEvent(data=Stops()))).steps()
    assert steps.send(None) is HELD
    with pytest.raises(StopAsyncIteration):
        steps.send(None)


class Closed:
    """An async iterator that is closed while it is suspended."""

    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses
        self.seen: list[str] = []

    async def __anext__(self) -> int:
        try:
            await suspend(HELD)
        except GeneratorExit:
            self.seen.append("closed")
            if self.refuses:
                await suspend(HELD)
            raise
        return 1


def test_a_coroutine_that_is_closed_closes_what_the_iterator_is_suspended_in(core: Any) -> None:
    iterator = Closed(refuses=False)
    steps = Pumped(core, iterator).steps()
    steps.close()
    assert iterator.seen == []
    steps = Pumped(core, iterator).steps()
    steps.send(None)
    steps.close()
    steps.close()
    assert iterator.seen == ["closed"]
    steps = Pumped(core, Unmarked(Awaitable(iter([HELD])))).steps()
    steps.send(None)
    steps.close()


def test_an_iterator_that_does_not_let_itself_be_closed_is_an_error(core: Any) -> None:
    steps = Pumped(core, Closed(refuses=True)).steps()
    steps.send(None)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        steps.close()
