"""X1 to X8: a run goes on without its clients, has one producer and one end, and can be stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any
from uuid import UUID
from weakref import ref

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

import run_places
from channel_clients import Client, MakeChannels, Run, connected, seen_in
from redis_checks import until
from run_answers import Answer, answering, end_of, followed, said
from run_places import in_memory, in_memory_on_asyncio
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._delivery.generator_thread import running_threads
from sserpent._runtime.loops import call_soon, current_time, current_token
from sserpent._shutdown import streams as shutdown
from sserpent.channels import Channels, LastEventID, Runs
from sserpent.channels import Run as StartedRun
from sserpent.channels.history.broker import BrokerUnavailable, Fenced, Item, RunBroker
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.history.ring import Entry
from sserpent.protocols import ProtocolResponse

pytestmark = pytest.mark.anyio

setting, run, anyio_backend, make_channels = (
    run_places.setting,
    run_places.run,
    run_places.anyio_backend,
    run_places.make_channels,
)


# X1


async def test_x1_a_run_goes_on_when_its_followers_leave(make_channels: MakeChannels) -> None:
    async with answering(make_channels) as (runs, answer, started):
        async with connected(started.follow()) as client:
            answer.say("a")
            await client.until(lambda: said(client) == ["a"])
        answer.say("b")
        answer.end()
        later = await followed(runs, started.id, after=client.last_id)
        assert said(later) == ["b"]
        assert end_of(later) == ("done", None)
        assert answer.cancelled == 0


async def test_x1_what_a_stale_producer_appends_is_refused(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers"), Answer()
        started = await runs.start(answer())
        stream = runs._key(started.id, None)
        item = runs_item("foreign")
        with pytest.raises(Fenced):
            await channels._broker.runs.append(stream, "0123456789abcdef", item)
        assert not await channels._broker.runs.end(stream, "0123456789abcdef", item)
        answer.end()
        client = await followed(runs, started.id)
        assert said(client) == []
        assert end_of(client) == ("done", None)


def runs_item(text: str) -> Any:
    from sserpent.channels.history.encoding import Encoding

    return Encoding().item(text)


class _Away:
    """Stands between a producer and its broker, and can be away.

    Attributes:
        is_away: Whether it is.
        sizes: How many events it was given each time that it was there.
    """

    def __init__(self, broker: RunBroker) -> None:
        self.is_away = False
        self.sizes: list[int] = []
        self._append = broker.append

    async def append(self, run: HistoryKey, fence: str, items: Sequence[Item]) -> None:
        if not self.is_away:
            self.sizes.append(len(items))
            await self._append(run, fence, items)
            return
        await anyio.sleep(0.01)
        raise BrokerUnavailable("it is away")


@asynccontextmanager
async def answering_while_away(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Runs, Answer, StartedRun, _Away]]:
    monkeypatch.setattr("sserpent.channels.runs.producer._RETRY", 0.01)
    async with make_channels() as channels:
        broker = channels._broker.runs
        away = _Away(broker)
        monkeypatch.setattr(broker, "append", away.append)
        monkeypatch.setattr(broker, "append_now", None)
        runs, answer = channels.runs("answers", shutdown_grace=0), Answer()
        yield runs, answer, await runs.start(answer()), away


async def test_c12_a_generator_waits_when_too_much_waits_for_the_broker(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering_while_away(make_channels, monkeypatch) as (
        runs,
        answer,
        started,
        broker,
    ):
        broker.is_away = True
        answer.say(*range(250))
        answer.end()
        with anyio.fail_after(20):
            while len(answer._items) > 151:
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert len(answer._items) == 151  # the end is one
        broker.is_away = False
        client = await followed(runs, started.id)
        assert said(client) == list(range(250))
        assert end_of(client) == ("done", None)
        # How the later events are divided depends on how fast the broker answers.
        assert broker.sizes[0] == max(broker.sizes) == 100
        assert sum(broker.sizes) == 250


async def test_c12_large_events_wait_in_smaller_numbers(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering_while_away(make_channels, monkeypatch) as (
        runs,
        answer,
        started,
        broker,
    ):
        texts = [str(number) * 30_000 for number in range(8)]
        answer.say(*texts)
        answer.end()
        client = await followed(runs, started.id)
        assert said(client) == texts
        assert sum(broker.sizes) == 8
        assert max(broker.sizes) <= 3


async def test_x3_what_waits_for_the_broker_when_a_run_is_stopped_is_kept(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering_while_away(make_channels, monkeypatch) as (
        runs,
        answer,
        started,
        broker,
    ):
        broker.is_away = True
        answer.say(*range(250))
        with anyio.fail_after(20):
            while len(answer._items) > 150:
                await anyio.sleep(0.01)
        await runs.stop(started.id)
        with anyio.fail_after(20):
            while not answer.cleaned_up:
                await anyio.sleep(0.01)
        broker.is_away = False
        client = await followed(runs, started.id)
        assert said(client) == list(range(100))
        assert end_of(client) == ("stopped", "request")


# X2


async def test_x2_a_follower_gets_everything_then_live_then_one_end(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels) as (_, answer, started):
        async with connected(started.follow()) as first:
            answer.say(1, 2)
            await first.until(lambda: len(first.seen) == 2)
            async with connected(started.follow()) as second:
                answer.say(ServerSentEvent(raw_data="3", event="token"))
                answer.end()
                for client in (first, second):
                    await client.until(lambda client=client: client.complete)
        for client in (first, second):
            assert said(client) == [1, 2, 3]
            assert end_of(client) == ("done", None)
            assert client.headers["run-id"] == started.id
        assert first.seen == second.seen


async def test_x2_a_long_run_that_has_ended_is_followed_to_its_end(
    make_channels: MakeChannels,
) -> None:
    """In several chunks, the last of which has the end of the run."""
    numbers = [*range(200)]
    async with answering(make_channels, item_type=str) as (runs, answer, started):
        answer.say(*[str(n) * 500 for n in numbers])
        answer.end()
        assert (await started.wait()).state == "done"
        client = await followed(runs, started.id)
        assert said(client) == [str(n) * 500 for n in numbers]
        assert end_of(client) == ("done", None)
        assert len(client.bodies) > 2


async def test_x2_whoever_has_the_last_event_gets_a_204(make_channels: MakeChannels) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a")
        answer.end()
        client = await followed(runs, started.id)
        response = await runs.follow(started.id, after=client.last_id)
        assert response.status_code == 204
        first = client.seen[0].id
        assert end_of(await followed(runs, started.id, after=first)) == ("done", None)


async def test_x2_a_garbage_id_gives_a_reset_and_then_everything(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a")
        answer.end()
        for after in ("garbage", "0123456789abcdef-1-1", "x" * 10_000):
            client = await followed(runs, started.id, after=after)
            assert client.seen[0].type == "reset"
            assert client.data == ["a", client.seen[-1].data]


@pytest.mark.parametrize(
    ("item", "names"),
    [
        (ServerSentEvent(data=1, id="7"), "'id'"),
        (ServerSentEvent(data=1, event="run-end"), "'event'"),
        (ServerSentEvent(data=1, event="gap"), "'event'"),
        (ServerSentEvent(data=1, event="reset"), "'event'"),
    ],
)
async def test_x2_a_generator_may_not_speak_for_the_run(
    make_channels: MakeChannels, item: ServerSentEvent, names: str
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a", item, "never")
        client = await followed(runs, started.id)
        assert said(client) == ["a"]
        end, reason = end_of(client)
        assert end == "error"
        assert reason is not None
        assert reason.startswith(names)
        assert answer.cleaned_up


async def test_x2_a_typed_run_reads_its_own_end(make_channels: MakeChannels) -> None:
    async with answering(make_channels, item_type=int) as (runs, answer, started):
        answer.say(1)
        answer.end()
        following: Any = await runs.follow(started.id)
        body = b"".join([chunk async for chunk in following.body_iterator])
        assert [each.type for each in seen_in(body)] == ["message", "run-end"]


async def test_x7_an_event_that_no_reader_takes_ends_the_run_with_an_error(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, max_bytes=2**26) as (runs, answer, started):
        answer.say("a", "x" * 2**24)
        client = await followed(runs, started.id)
        assert said(client) == ["a"]
        end, reason = end_of(client)
        assert end == "error"
        assert "at most 16777216 bytes" in (reason or "")


NO_IDS = ["", "a b", "a/b", "é", "x" * 129, "x" * 60_000, "a\n", "../a"]


@pytest.mark.parametrize("run_id", NO_IDS, ids=lambda each: each[:10])
async def test_x5_what_is_no_id_is_unknown_and_leaves_nothing_behind(
    make_channels: MakeChannels, run_id: str
) -> None:
    async with answering(make_channels) as (runs, _, _):
        answers = set()
        for each in (run_id, "no-such-run"):
            for method in (runs.follow, runs.stop):
                with pytest.raises(HTTPException) as error:
                    await method(each)
                answers.add((error.value.status_code, error.value.detail))
        assert answers == {(404, "There is no such run")}
        for method in (runs.follow, runs.stop):
            with pytest.raises(TypeError, match="'run_id' must be a string, not int"):
                await method(7)  # type: ignore[arg-type]


@in_memory
@pytest.mark.virtual_time
async def test_x2_a_run_can_be_followed_until_its_ttl_counted_from_its_end(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sserpent.channels.history.memory.monotonic", current_time)
    async with answering(make_channels, ttl=100) as (runs, answer, started):
        answer.say("a")
        await anyio.sleep(1_000)  # while it goes on nothing expires
        answer.say("b")
        answer.end()
        assert said(await followed(runs, started.id)) == ["a", "b"]
        # Who follows it meanwhile does not prolong that.
        for _ in range(3):
            await anyio.sleep(33)
            assert said(await followed(runs, started.id)) == ["a", "b"]
        await anyio.sleep(1.5)
        for method in (runs.follow, runs.stop):
            with pytest.raises(HTTPException):
                await method(started.id)


# X3


async def test_x3_a_stop_cancels_once_and_keeps_what_was_yielded(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        async with connected(started.follow()) as client:
            answer.say("a")
            await client.until(lambda: said(client) == ["a"])
            await runs.stop(started.id)
            await runs.stop(started.id)
            await client.until(lambda: client.complete)
        assert end_of(client) == ("stopped", "request")
        assert said(client) == ["a"]
        assert (answer.cancelled, answer.cleaned_up) == (1, True)
        await runs.stop(started.id)  # changes nothing
        assert end_of(await followed(runs, started.id)) == ("stopped", "request")


@in_memory
@pytest.mark.virtual_time
async def test_x3_a_run_that_is_in_its_finally_comes_to_the_end_of_it(
    make_channels: MakeChannels,
) -> None:
    log: list[str] = []
    tidying, go_on = anyio.Event(), anyio.Event()

    async def answer() -> AsyncIterator[str]:
        try:
            yield "a"
        finally:
            tidying.set()
            await go_on.wait()
            log.append("tidied up")

    async with make_channels() as channels:
        runs = channels.runs("answers")
        started = await runs.start(answer())
        await tidying.wait()
        await runs.stop(started.id)
        await anyio.sleep(1)
        go_on.set()
        client = await followed(runs, started.id)
        assert said(client) == ["a"]
        assert end_of(client) == ("stopped", "request")
        assert log == ["tidied up"]


@in_memory
@pytest.mark.virtual_time
async def test_x3_a_run_that_is_stopped_before_it_begins_is_not_entered(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers"), Answer()
        source = answer()
        started = await runs.start(source)
        await runs.stop(started.id)
        assert end_of(await followed(runs, started.id)) == ("stopped", "request")
        assert not answer.entered
        with pytest.raises(StopAsyncIteration):
            await source.__anext__()  # it is closed


async def test_x3_a_run_that_is_stopped_while_it_is_recorded_is_not_entered(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_channels() as channels:
        runs, answer, broker = channels.runs("answers"), Answer(), channels._broker.runs
        start = broker.start

        async def start_and_stop(
            stream: HistoryKey, ttl: float, on_stop: Callable[[str], None]
        ) -> str | None:
            heard = threading.Event()
            fence = await start(stream, ttl, lambda reason: (on_stop(reason), heard.set())[0])
            assert await broker.stop(stream, "request")
            assert await anyio.to_thread.run_sync(heard.wait, 20)
            return fence

        monkeypatch.setattr(broker, "start", start_and_stop)
        started = await runs.start(answer())
        assert end_of(await followed(runs, started.id)) == ("stopped", "request")
        assert not answer.entered


async def test_x3_a_generator_that_swallows_its_cancellation_gets_no_further_than_its_next_yield(
    make_channels: MakeChannels,
) -> None:
    swallowed: list[str] = []
    entered = anyio.Event()

    async def stubborn() -> AsyncIterator[str]:
        entered.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            swallowed.append("cancelled")
        yield "kept"
        swallowed.append("never")

    async with make_channels() as channels:
        runs = channels.runs("answers")
        started = await runs.start(stubborn())
        await entered.wait()
        await runs.stop(started.id)
        client = await followed(runs, started.id)
        assert end_of(client) == ("stopped", "request")
        assert said(client) == ["kept"]
        assert swallowed == ["cancelled"]


async def test_x3_a_stop_from_another_thread(make_channels: MakeChannels) -> None:
    async with answering(make_channels) as (runs, _, started):
        stopped = threading.Thread(target=lambda: anyio.run(runs.stop, started.id))
        stopped.start()
        client = await followed(runs, started.id)
        stopped.join()
        assert end_of(client) == ("stopped", "request")


async def test_x3_a_sync_generator_is_stopped_after_the_step_it_is_in(
    make_channels: MakeChannels,
) -> None:
    entered, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def answer() -> Iterator[str]:
        try:
            yield "a"
            entered.set()
            go_on.wait(20)
            yield "b"
        finally:
            closed.set()

    async with make_channels() as channels:
        runs = channels.runs("answers")
        started = await runs.start(answer())
        await anyio.to_thread.run_sync(entered.wait, 20)
        (producer,) = runs._local.producers
        await runs.stop(started.id)
        # It hears of it from the broker.
        await until(lambda: producer._stopping)
        go_on.set()
        client = await followed(runs, started.id)
        assert said(client) == ["a", "b"]
        assert end_of(client) == ("stopped", "request")
        assert closed.is_set()


# X4


@in_memory
@pytest.mark.virtual_time
async def test_x4_a_producer_that_dies_is_noticed_by_its_lease(
    make_channels: MakeChannels,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def dead(self: Any) -> None:
        """A producer's lease that nobody renews."""

    monkeypatch.setattr("sserpent.channels.history.memory.monotonic", current_time)
    monkeypatch.setattr("sserpent.channels.history.memory.is_running", lambda token: False)
    monkeypatch.setattr("sserpent.channels.runs.producer.Producer.renew_soon", dead)
    async with answering(make_channels) as (runs, answer, started):
        runs._local._produced.clear()  # nobody waits for it either
        answer.say("a")
        begin = anyio.current_time()
        client = await followed_slowly(runs, started.id)
        assert 15 <= anyio.current_time() - begin <= 20
        assert said(client) == ["a"]
        assert end_of(client) == ("lost", None)
        # It has lost its fence: nothing of it comes after the end.
        assert caplog.text == ""
        answer.say("b")
        await anyio.sleep(1)
        assert said(await followed_slowly(runs, started.id)) == ["a"]
        answer.end()
        await anyio.sleep(1)
    # It was alive after all.
    [record] = caplog.records
    assert "is lost and stopped: its lease was not renewed for 15 s" in record.getMessage()


async def followed_slowly(runs: Runs, run_id: str) -> Client:
    client = Client()
    await client.run(await runs.follow(run_id))
    return client


@in_memory
@pytest.mark.virtual_time
async def test_x4_a_producer_that_lives_is_not_taken_for_dead(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sserpent.channels.history.memory.monotonic", current_time)
    async with answering(make_channels) as (_, answer, started):
        async with connected(started.follow()) as client:
            await anyio.sleep(120)
            answer.say("a")
            answer.end()
            await anyio.sleep(1)
        assert end_of(client) == ("done", None)


@in_memory
async def test_x4_a_run_whose_event_loop_is_blocked_for_longer_than_its_lease_goes_on(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A debugger does it, or what loads a model."""
    blocked_for = 0.0
    monkeypatch.setattr(
        "sserpent.channels.history.memory.monotonic", lambda: monotonic() + blocked_for
    )
    async with make_channels() as channels:
        runs, answer = channels.runs("answers", shutdown_grace=0), Answer()
        started = await runs.start(answer(), key="chat")
        blocked_for = 60  # and its lease is not renewed since
        assert (await runs.status(started.id)).state == "running"
        assert await runs.active("chat") is not None
        with pytest.raises(HTTPException):
            await runs.start(Answer()(), key="chat")
        # Each new follower checks whether the producer is alive.
        async with connected(started.follow()) as client:
            answer.say("a")
            await client.until(lambda: said(client) == ["a"])
            answer.end()
            await client.until(lambda: client.complete)
        assert end_of(client) == ("done", None)


@in_memory
async def test_x4_a_run_whose_event_loop_has_ended_without_it_is_lost(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = 0.0
    monkeypatch.setattr("sserpent.channels.history.memory.monotonic", lambda: monotonic() + later)
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        loop = asyncio.new_event_loop()
        try:
            started = await anyio.to_thread.run_sync(
                loop.run_until_complete, runs.start(Answer()(), key="chat")
            )
            assert (await runs.status(started.id)).state == "running"
            later = 16
            assert (await runs.status(started.id)).state == "lost"
            assert await runs.active("chat") is None
            assert end_of(await followed(runs, started.id)) == ("lost", None)
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            await anyio.to_thread.run_sync(loop.run_until_complete, asyncio.sleep(0.1))
            loop.close()


# X5

STRANGERS = ["07", 8, UUID(int=7), "", "None", None]


@pytest.mark.parametrize("stranger", STRANGERS, ids=repr)
async def test_x5_a_run_of_another_is_as_unknown_as_one_that_does_not_exist(
    make_channels: MakeChannels, stranger: Any
) -> None:
    async with answering(make_channels, owner=7) as (runs, answer, started):
        answers = []
        for run_id, owner in ((started.id, stranger), ("no-such-run", 7)):
            for method in (runs.follow, runs.stop):
                with pytest.raises(HTTPException) as error:
                    await method(run_id, owner=owner)
                answers.append((error.value.status_code, error.value.detail))
        assert set(answers) == {(404, answers[0][1])}
        answer.end()
        assert end_of(await followed(runs, started.id, owner=7)) == ("done", None)


async def test_x5_a_second_start_of_an_id_closes_its_source_and_returns_the_run(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, first, second = channels.runs("answers"), Answer(), Answer()
        one = await runs.start(first(), owner="a", id="chat-1")
        source = second()
        two = await runs.start(source, owner="a", id="chat-1")
        assert one.id == two.id == "chat-1"
        with pytest.raises(StopAsyncIteration):
            await source.__anext__()
        assert not second.entered
        # Of another owner it is another run.
        third = Answer()
        await runs.start(third(), owner="b", id="chat-1")
        first.say(1)
        third.say(3)
        first.end()
        third.end()
        assert said(await followed(runs, "chat-1", owner="a")) == [1]
        assert said(await followed(runs, "chat-1", owner="b")) == [3]


async def test_x5_ids_have_128_random_bits(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers")
        ids = {(await runs.start(iter(()))).id for _ in range(100)}
        assert len(ids) == 100
        assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)


@pytest.mark.parametrize(
    ("owner", "same"), [(7, "7"), ("7", 7), (UUID(int=7), str(UUID(int=7))), ("", "")]
)
async def test_x5_owners_are_compared_by_their_text(
    make_channels: MakeChannels, owner: Any, same: Any
) -> None:
    async with answering(make_channels, owner=owner) as (runs, answer, started):
        answer.say("a")
        answer.end()
        assert said(await followed(runs, started.id, owner=same)) == ["a"]
        await runs.stop(started.id, owner=same)
        for stranger in (None, "x"):
            with pytest.raises(HTTPException):
                await runs.follow(started.id, owner=stranger)


# X6


async def test_x6_an_exception_is_logged_and_followers_see_no_internals(
    make_channels: MakeChannels, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a", RuntimeError("the password is secret"))
        client = await followed(runs, started.id)
        assert end_of(client) == ("error", "exception")
        assert said(client) == ["a"]
        assert b"secret" not in client.body
        [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert started.id in record.getMessage()
        assert record.exc_info is not None
        assert "secret" in str(record.exc_info[1])


async def test_x6_an_item_that_cannot_be_encoded_is_such_an_exception(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a", object().__init__)
        client = await followed(runs, started.id)
        assert end_of(client) == ("error", "exception")
        assert answer.cleaned_up


class _Own(BaseException):
    """An exception that `except Exception` does not see."""


def _group() -> BaseException:
    if sys.version_info < (3, 11):
        from exceptiongroup import BaseExceptionGroup as Group
    else:
        from builtins import BaseExceptionGroup as Group
    return Group("several", [_Own("secret")])


BASE_EXCEPTIONS = [_group, GeneratorExit, KeyboardInterrupt, SystemExit, _Own]


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("error", BASE_EXCEPTIONS, ids=lambda each: each.__name__)
async def test_x6_any_other_exception_ends_the_run_alone_and_is_logged_too(
    make_channels: MakeChannels,
    error: Callable[[], BaseException],
    is_sync: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def produce() -> AsyncIterator[str]:
        yield "a"
        await anyio.lowlevel.checkpoint()
        raise error()

    def produce_in_thread() -> Iterator[str]:
        yield "a"
        raise error()

    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        started = await runs.start(produce_in_thread() if is_sync else produce())
        client = await followed(runs, started.id)
        assert said(client) == ["a"]
        assert end_of(client) == ("error", "exception")
        await until(lambda: not runs._local.producers)
        assert b"secret" not in client.body
        [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert started.id in record.getMessage()
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], type(error()))


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "failed"])
async def test_x6_a_run_with_a_task_group_is_stopped_or_fails_as_any_other(
    make_channels: MakeChannels, is_stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        if not is_stopped:
            raise _Own

    async def produce() -> AsyncIterator[str]:
        yield "a"
        async with anyio.create_task_group() as tasks:
            for each in (anyio.sleep_forever, fail, anyio.sleep_forever):
                tasks.start_soon(each)
            await anyio.sleep_forever()

    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        started = await runs.start(produce())
        if is_stopped:
            await until_yielded(started, 1)
            await started.stop()
        client = await followed(runs, started.id)
        expected = ("stopped", "request") if is_stopped else ("error", "exception")
        assert end_of(client) == expected
        assert len(caplog.records) == (not is_stopped)


async def until_yielded(started: StartedRun[Any], events: int) -> None:
    with anyio.fail_after(20):
        while (await started._runs.status(started.id)).events < events:
            await anyio.sleep(0.005)


async def _awaits_a_cancelled_task() -> AsyncIterator[str]:
    yield "a"
    task = asyncio.ensure_future(asyncio.sleep(100))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def test_x6_a_cancellation_from_within_is_an_error(
    setting: list[str],
    make_channels: MakeChannels,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if setting[1] == "trio":
        pytest.skip("Trio cancels scopes, not tasks")
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        started = await runs.start(_awaits_a_cancelled_task())
        client = await followed(runs, started.id)
        assert said(client) == ["a"]
        assert end_of(client) == ("error", "exception")
        [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert record.getMessage() == (
            f"The generator of run '{started.id}' was cancelled from within"
        )
        assert record.exc_info is not None


def test_x6_a_run_that_the_end_of_the_event_loop_cancels_is_no_error(
    setting: list[str], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    if setting[0] != "memory":
        pytest.skip("Redis cannot be asked when the event loop has ended")
    kept: list[tuple[Runs, StartedRun]] = []

    async def main() -> None:
        channels = Channels()
        await channels.__aenter__()
        runs = channels.runs("answers", shutdown_grace=0)
        answer = Answer()
        kept.append((runs, await runs.start(answer())))
        await until(lambda: answer.entered)

    async def look() -> tuple[str, str | None]:
        [(runs, started)] = kept
        status = await runs.status(started.id)
        return status.state, status.reason

    run(main)
    assert anyio.run(look) == ("stopped", "shutdown")
    assert not [each for each in caplog.records if "cancelled from within" in each.getMessage()]


# X7


async def test_x7_a_run_beyond_max_bytes_ends_and_says_so(make_channels: MakeChannels) -> None:
    async with answering(make_channels, max_bytes=1_000) as (runs, answer, started):
        answer.say(*["x" * 80] * 20)
        client = await followed(runs, started.id)
        end, reason = end_of(client)
        assert end == "error"
        assert reason is not None
        assert "max_bytes" in reason
        assert "1000" in reason
        kept = said(client)
        assert kept == ["x" * 80] * len(kept)
        assert 8 <= len(kept) <= 12
        assert answer.cleaned_up


async def test_x7_nothing_of_a_run_is_trimmed(make_channels: MakeChannels) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say(*range(5_000))
        answer.end()
        client = await followed(runs, started.id)
        assert said(client) == list(range(5_000))


# X8


@pytest.mark.parametrize("grace", [0, 10])
@in_memory
@pytest.mark.virtual_time
async def test_x8_a_run_ends_with_its_channels_within_its_grace(
    make_channels: MakeChannels, grace: float
) -> None:
    runs, answer = None, Answer()
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=grace)
        started = await runs.start(answer())
        client = Client()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, started.follow())
            answer.say("a")
            await client.until(lambda: said(client) == ["a"])
            begin = anyio.current_time()
            await channels.aclose()
            assert grace <= anyio.current_time() - begin <= grace + 6
        assert end_of(client) == ("stopped", "shutdown")
        assert answer.cleaned_up
        assert not runs._local.producers


# Which calls a broker that is silent does not answer, for how long, and when it falls silent.
SILENT = {
    "while it appends": ({"append", "end", "free", "renew", "claim"}, 0),
    "before it renews": ({"append", "end", "free", "renew", "claim"}, 7),
    "before the end": ({"end", "free"}, 0),
    "before the key is free": ({"free"}, 0),
}


@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize(
    ("timeout", "grace", "told"),
    [
        (5, 0, "before"),
        (math.inf, 0, "before"),
        (5, 20, "before"),
        (math.inf, 20, "after its end"),
        (5, 0, "after its end"),
        (5, 0, "after a stop"),
        (math.inf, 0, "after a stop"),
    ],
)
@in_memory
@pytest.mark.virtual_time
async def test_x8_a_broker_that_is_silent_holds_a_shutdown_up_for_8_s_in_all(
    make_channels: MakeChannels,
    caplog: pytest.LogCaptureFixture,
    silent: str,
    timeout: float,
    grace: float,
    told: str,
) -> None:
    calls, after = SILENT[silent]

    async def never(*_: Any) -> None:
        await anyio.sleep(timeout)
        raise BrokerUnavailable("Redis at nowhere could not be reached within 5 s")

    async with make_channels() as channels:
        several = [channels.runs(f"runs-{n}", shutdown_grace=grace) for n in range(3)]
        answers = [Answer() for _ in several]
        started = [
            await runs.start(answer(), key="chat")
            for runs, answer in zip(several, answers, strict=True)
        ]
        await anyio.sleep(1)
        for name in calls:
            setattr(channels._broker.runs, name, never)
        for answer in answers:
            answer.say("a")
            if told == "after its end":
                answer.end()
        if told == "after a stop":
            for runs, run in zip(several, started, strict=True):
                await runs.stop(run.id)
        await anyio.sleep(after)
        begin = anyio.current_time()
        await channels.aclose()
        assert anyio.current_time() - begin <= grace + 8.5
        assert not any(runs._local.producers for runs in several)
    # One line for each run whose end is not recorded, without a traceback.
    records = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(records) == (0 if calls == {"free"} else 3)
    for record in records:
        assert "could not be recorded" in record.getMessage()
        assert record.exc_info is None


@in_memory
@pytest.mark.virtual_time
async def test_x8_all_runs_have_their_grace_at_the_same_time(
    make_channels: MakeChannels, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sserpent")
    async with make_channels() as channels:
        for n in range(3):
            await channels.runs(f"runs-{n}", shutdown_grace=5 * n).start(Answer()())
        begin = anyio.current_time()
        await channels.aclose()
        assert 10 <= anyio.current_time() - begin <= 11
    # The log says why the server has not exited yet.
    assert [each.getMessage() for each in caplog.records] == [
        "Waiting up to 5 s (shutdown_grace) for the active runs of 'runs-1' to end: 1",
        "Waiting up to 10 s (shutdown_grace) for the active runs of 'runs-2' to end: 1",
    ]


@in_memory
@pytest.mark.virtual_time
async def test_x8_a_run_without_followers_is_told_of_the_server_s_shutdown(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, shutdown_grace=10) as (runs, answer, started):
        answer.say("a")
        await anyio.sleep(1)
        shutdown._of_this_loop()._look(signalled=True)
        await anyio.sleep(9)
        assert not answer.cleaned_up
        await anyio.sleep(7)
        assert answer.cleaned_up
        assert not runs._local.producers
        assert end_of(await followed_slowly(runs, started.id)) == ("stopped", "shutdown")


@in_memory
@pytest.mark.virtual_time
async def test_x8_a_run_that_starts_while_channels_are_closed_is_ended_too(
    make_channels: MakeChannels,
) -> None:
    late = Answer()

    async def restarted(runs: Runs) -> AsyncIterator[str]:
        yield "begun"
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await runs.start(late())

    async with make_channels() as channels:
        one, two = [channels.runs(f"runs-{n}", shutdown_grace=n * 10) for n in range(2)]
        started = await one.start(restarted(two))
        async with connected(started.follow()) as client:
            await client.until(lambda: client.data)
            with anyio.fail_after(60):
                await channels.aclose()
    assert late.cleaned_up
    assert not one._local.producers
    assert not two._local.producers


@pytest.mark.once
def test_x8_runs_of_event_loops_that_are_over_do_not_hold_up_the_end() -> None:
    channels = Channels()
    runs = channels.runs("answers", shutdown_grace=0.1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(runs.start(Answer()()))
    loop.close()

    async def close() -> None:
        with anyio.fail_after(20):
            await channels.aclose()

    anyio.run(close)
    assert not runs._local.producers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.mark.once
def test_x8_runs_of_an_event_loop_in_another_thread_end_there() -> None:
    channels = Channels()
    runs, answer = channels.runs("answers", shutdown_grace=0), Answer()
    with anyio.from_thread.start_blocking_portal() as portal:
        run = portal.call(runs.start, answer())

        async def close() -> None:
            with anyio.fail_after(20):
                await channels.aclose()

        portal.call(anyio.lowlevel.checkpoint)
        anyio.run(close)
        assert answer.cleaned_up
        assert not runs._local.producers
        assert run.id


@in_memory
@pytest.mark.parametrize("call", ["renew", "append"])
@pytest.mark.virtual_time
async def test_x6_a_broker_that_raises_something_else_ends_the_run_alone(
    make_channels: MakeChannels, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    async with make_channels() as channels:
        runs, answer = channels.runs("answers", shutdown_grace=0), Answer()
        kept: Any = channels._broker.runs
        if call == "append":
            kept.append_now = None
        started = await runs.start(answer())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept, call, fail)
            answer.say("a")
            await anyio.sleep(6)
        assert (await started.wait()).state in ("lost", "stopped")
        assert answer.cleaned_up
        assert not runs._local.producers
    assert "broker" in caplog.text


async def test_x8_nothing_is_left_of_a_run_that_has_ended(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers"), Answer()
        started = await runs.start(answer())
        answer.end()
        await followed(runs, started.id)
        with anyio.fail_after(20):
            while runs._local.producers or runs._watches or channels._hubs._by_loop:
                await anyio.sleep(0.01)
        assert not shutdown._of_this_loop().are_open()


async def test_x8_an_ended_run_keeps_its_events_and_lets_go_of_its_generator(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers"), Answer()
        source = answer()
        started = await runs.start(source)
        [producer] = runs._local.producers
        kept = [ref(source), ref(producer)]
        del source, producer
        answer.say("a")
        answer.end()
        await followed(runs, started.id)
        await until(lambda: not runs._local.producers)
        await until(lambda: gc.collect() >= 0 and not any(each() for each in kept))
        assert said(await followed(runs, started.id)) == ["a"]
        await started.stop()  # does nothing


# In an application


def test_runs_in_an_application() -> None:
    channels = Channels()
    runs = channels.runs("answers")
    app = FastAPI(lifespan=channels.lifespan)

    async def answer() -> AsyncIterator[ServerSentEvent]:
        for token in ("Hel", "lo"):
            yield ServerSentEvent(raw_data=token)

    @app.post("/answers", response_class=EventSourceResponse)
    async def ask() -> Any:
        run = await runs.start(answer(), owner="me")
        return run.follow()

    @app.get("/answers/{run_id}", response_class=EventSourceResponse)
    async def follow(run_id: str, last_event_id: LastEventID = None) -> Any:
        return await runs.follow(run_id, owner="me", after=last_event_id)

    @app.delete("/answers/{run_id}")
    async def stop(run_id: str) -> None:
        await runs.stop(run_id, owner="me")

    with TestClient(app) as client:
        asked = client.post("/answers")
        assert asked.status_code == 200
        run_id = asked.headers["Run-ID"]
        ids = [line[4:] for line in asked.text.splitlines() if line.startswith("id: ")]
        again = client.get(f"/answers/{run_id}", headers={"Last-Event-ID": ids[0]})
        assert "data: lo" in again.text
        assert "data: Hel" not in again.text
        assert client.get(f"/answers/{run_id}?last_event_id={ids[-1]}").status_code == 204
        assert client.get("/answers/unknown").status_code == 404
        assert client.delete("/answers/unknown").status_code == 404
        assert client.delete(f"/answers/{run_id}").status_code == 200


# Sync generators

_request: ContextVar[str] = ContextVar("_request")


class Sync:
    """A sync generator that a test holds: it notes its threads, and waits where it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.threads: set[int] = set()
        self.seen: list[str] = []
        self.running = False
        self.cleaned_up = False

    def __call__(self, count: int = 5) -> Iterator[Any]:
        _request.set(_request.get("none") + " and its own")
        self.running = True
        try:
            for number in range(count):
                self.threads.add(threading.get_ident())
                self.seen.append(_request.get())
                yield number
            self.go_on.wait(30)
        finally:
            self.threads.add(threading.get_ident())
            self.cleaned_up = True

    async def has_begun(self) -> None:
        with anyio.fail_after(30):
            while not self.running:
                await anyio.sleep(0.005)


async def test_a_sync_generator_has_one_thread_and_its_context(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers"), Sync()
        _request.set("of the request")
        started = await runs.start(answer())
        _request.set("of another")
        answer.go_on.set()
        client = await followed(runs, started.id)
        assert said(client) == [0, 1, 2, 3, 4]
        assert end_of(client) == ("done", None)
        assert len(answer.threads) == 1
        assert threading.get_ident() not in answer.threads
        assert set(answer.seen) == {"of the request and its own"}
        assert _request.get() == "of another"


async def test_an_async_generator_has_the_context_of_its_start(make_channels: MakeChannels) -> None:
    async def answer() -> AsyncIterator[str]:
        yield _request.get()
        _request.set("its own")
        yield _request.get()

    async with make_channels() as channels:
        runs = channels.runs("answers")
        _request.set("of the request")
        started = await runs.start(answer())
        assert said(await followed(runs, started.id)) == ["of the request", "its own"]


async def test_sync_generators_have_a_limit_and_take_no_thread_of_sync_routes(
    make_channels: MakeChannels, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", max_threads=2, shutdown_grace=0)
        answers = [Sync() for _ in range(4)]
        limiter = anyio.to_thread.current_default_thread_limiter()
        started = []
        for waiting, answer in zip((0, 0, 1, 2), answers, strict=True):
            started.append(await runs.start(answer()))
            if not waiting:
                await answer.has_begun()
            await until(lambda waiting=waiting: len(runs._thread_slots._waiting) == waiting)
        assert limiter.borrowed_tokens == 0
        assert running_threads() == 2
        assert [answer.running for answer in answers] == [True, True, False, False]
        await runs.stop(started[3].id)  # it waits for its turn, and never gets one
        assert end_of(await followed(runs, started[3].id)) == ("stopped", "request")
        answers[0].go_on.set()
        await answers[2].has_begun()
        assert not answers[3].running
        for answer in answers:
            answer.go_on.set()
        for each in started[:3]:
            assert end_of(await followed(runs, each.id)) == ("done", None)
        assert running_threads() == 0
    assert "All of max_threads (2) sync generators are running" in caplog.text


@in_memory_on_asyncio
async def test_a_thousand_runs_that_block_have_no_more_threads_than_max_threads(
    make_channels: MakeChannels,
) -> None:
    go_on, limit = threading.Event(), 20

    def answer() -> Iterator[int]:
        yield 1
        go_on.wait(60)
        yield 2

    async with make_channels() as channels:
        runs = channels.runs("answers", max_threads=limit)
        started = [await runs.start(answer()) for _ in range(1_050)]
        await until(lambda: running_threads() == limit)
        await until(lambda: len(runs._thread_slots._waiting) == len(started) - limit)
        blocked = [each for each in threading.enumerate() if each.name.startswith("sserpent")]
        assert len(blocked) == limit
        go_on.set()
        for each in started[:: len(started) - 1]:
            assert said(await followed(runs, each.id)) == [1, 2]
        await until(lambda: not runs._local.producers)
        assert running_threads() == 0


@in_memory_on_asyncio
async def test_what_is_no_generator_is_left_alone_by_a_run_that_never_begins(
    make_channels: MakeChannels,
) -> None:
    """The `close` of another iterable may block: it runs in a thread, or not at all."""

    entered: list[bool] = []
    closed_in: list[threading.Thread] = []

    class Lines:
        def __iter__(self) -> Iterator[int]:
            entered.append(True)
            return iter(())

        def close(self) -> None:
            closed_in.append(threading.current_thread())

    async with make_channels() as channels:
        runs = channels.runs("answers")
        started = await runs.start(Lines())
        (producer,) = runs._local.producers
        producer.stop("early")
        assert end_of(await followed(runs, started.id)) == ("stopped", "early")
    assert not entered
    assert threading.current_thread() not in closed_in


async def test_a_sync_generator_waits_for_a_broker_that_is_away(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    yielded: list[int] = []

    def answer() -> Iterator[str]:
        for number in range(40):
            yielded.append(number)
            yield f"{number}" * 5_000

    async with answering_while_away(make_channels, monkeypatch) as (runs, _, _, broker):
        broker.is_away = True
        started = await runs.start(answer())
        with anyio.fail_after(30):
            while not yielded:
                await anyio.sleep(0.01)
        await anyio.sleep(0.2)
        assert len(yielded) < 35  # the outbox, one batch and one event: 3 x 64 KiB
        broker.is_away = False
        client = await followed(runs, started.id)
        assert said(client) == [f"{number}" * 5_000 for number in range(40)]


async def test_a_sync_generator_that_fails_keeps_what_it_has_yielded(
    make_channels: MakeChannels, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(last: Any) -> Iterator[Any]:
        yield 1
        yield last
        raise LookupError("on purpose")

    async with make_channels() as channels:
        runs = channels.runs("answers", max_bytes=100)
        for last, kept, end in (
            (2, [1, 2], ("error", "exception")),
            ("x" * 200, [1], ("error", "'max_bytes' (100) is exceeded")),
            (ServerSentEvent(data=1, event="gap"), [1], None),
        ):
            started = await runs.start(answer(last))
            client = await followed(runs, started.id)
            assert said(client) == kept
            assert end is None or end_of(client) == end
        assert caplog.text.count("LookupError: on purpose") == 1


async def test_x3_a_sync_generator_that_is_stopped_ends_at_its_next_yield(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers"), Sync()
        started = await runs.start(answer())
        (producer,) = runs._local.producers
        async with connected(started.follow()) as client:
            await client.until(lambda: said(client) == [0, 1, 2, 3, 4])
            await runs.stop(started.id)
            await until(lambda: producer._stopping)  # it hears of it from the broker
            assert not answer.cleaned_up
            answer.go_on.set()
            await client.until(lambda: client.complete)
        assert end_of(client) == ("stopped", "request")
        assert answer.cleaned_up
        assert len(answer.threads) == 1


async def test_x3_what_a_sync_generator_awaits_is_cancelled_and_its_cleanup_may_await(
    make_channels: MakeChannels, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    def answer() -> Iterator[str]:
        try:
            yield "a"
            anyio.from_thread.run(anyio.sleep, 3600)
        finally:
            anyio.from_thread.run(anyio.sleep, 0.01)
            closed.append("closed")

    async with make_channels() as channels:
        runs = channels.runs("answers")
        started = await runs.start(answer())
        async with connected(started.follow()) as client:
            await client.until(lambda: said(client) == ["a"])
            await runs.stop(started.id)
            await client.until(lambda: client.complete)
        assert end_of(client) == ("stopped", "request")
    assert closed == ["closed"]
    assert not caplog.records


# How many runs an owner has


async def test_an_owner_has_so_many_runs_at_the_same_time(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", max_runs_per_owner=2, shutdown_grace=0)
        answers = [Answer() for _ in range(6)]
        first = await runs.start(answers[0](), owner=7, id="first")
        await runs.start(answers[1](), owner="7")
        refused = answers[2]()
        with pytest.raises(HTTPException) as error:
            await runs.start(refused, owner=7)
        assert error.value.status_code == 429
        assert 1 <= int((error.value.headers or {})["Retry-After"]) <= 60
        with pytest.raises(StopAsyncIteration):
            await anext(refused)  # it is closed
        # One that repeats its request gets its run, and others have their own.
        repeated = answers[3]()
        assert (await runs.start(repeated, owner=7, id="first")).id == first.id
        with pytest.raises(StopAsyncIteration):
            await anext(repeated)
        for other in (8, None, None, None):
            await runs.start(Answer()(), owner=other)
        answers[0].end()
        await followed(runs, "first", owner=7)
        with anyio.fail_after(30):
            while runs._local._slots._taken["7"] == 2:
                await anyio.sleep(0.005)
        await runs.start(answers[4](), owner=7)
    assert not runs._local._slots._taken


# Bad input

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ttl": 0}, ValueError, "'ttl'"),
    ({"ttl": "1"}, TypeError, "'ttl'"),
    ({"max_bytes": 0}, ValueError, "'max_bytes'"),
    ({"max_bytes": 1.5}, TypeError, "'max_bytes'"),
    ({"shutdown_grace": -1}, ValueError, "'shutdown_grace'"),
    ({"max_threads": 0}, ValueError, "'max_threads' must be at least 1, not 0"),
    ({"max_runs_per_owner": 0}, ValueError, "'max_runs_per_owner' must be at least 1, not 0"),
    (
        {"max_runs_per_owner": "1"},
        TypeError,
        "'max_runs_per_owner' must be an integer or None",
    ),
    ({"name": ""}, ValueError, "'name'"),
    ({"name": 7}, TypeError, "'name'"),
    ({"name": "rooms"}, ValueError, "'rooms'"),
]


@pytest.mark.parametrize(("options", "error", "names"), BAD, ids=str)
def test_a_bad_option_is_refused_by_name(
    make_channels: MakeChannels, options: dict[str, Any], error: type[Exception], names: str
) -> None:
    channels = make_channels()
    channels.channel("rooms", keyed=True)
    with pytest.raises(error, match=names):
        channels.runs(**{"name": "answers", **options})


def test_runs_are_made_by_channels() -> None:
    for arguments in ((), (Channels(), "answers"), (Channels(), "answers", str)):
        with pytest.raises(TypeError, match=r"channels\.runs\(name, item_type\)"):
            Runs(*arguments)


def test_the_grace_of_runs_leaves_time_to_record_their_end() -> None:
    """Kubernetes kills after 30 s."""
    assert Channels().runs("answers")._definition.shutdown_grace == 20


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"source": 7}, TypeError, "'source'"),
        ({"owner": 1.5}, TypeError, "'owner'"),
        ({"owner": True}, TypeError, "'owner'"),
        ({"id": ""}, ValueError, "'id'"),
        ({"id": "a/b"}, ValueError, "'id'"),
        ({"id": "x" * 129}, ValueError, "'id'"),
        ({"id": 7}, TypeError, "'id'"),
    ],
    ids=str,
)
async def test_a_bad_argument_of_start_is_refused_and_the_source_closed(
    make_channels: MakeChannels,
    arguments: dict[str, Any],
    error: type[Exception],
    names: str,
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers")
        with pytest.raises(error, match=names):
            await runs.start(**{"source": iter(()), **arguments})


async def test_a_run_that_only_computes_leaves_the_event_loop_its_turns(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", str)
        turns_at: list[int] = []
        yielded = 0

        async def computing() -> AsyncIterator[str]:
            nonlocal yielded
            for _ in range(12):
                time.sleep(0.004)  # noqa: ASYNC251, as a model does that runs in this process
                yielded += 1
                yield "token"

        async def turn() -> None:
            while yielded < 12:
                turns_at.append(yielded)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            run = await runs.start(computing())
            tasks.start_soon(turn)
            assert (await run.wait()).state == "done"
        # Trio does not say who is next.
        assert len(set(turns_at) & set(range(1, 12))) >= 4


async def test_a_run_that_waits_is_not_made_to_wait_again(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", str)
        now = 0.0  # of its own: a busy machine may take the time of a turn anywhere
        monkeypatch.setattr("sserpent.channels.runs.turns.monotonic", lambda: now)
        has_waited = anyio.Event()
        is_asked_for_more = False
        seen: list[bool] = []

        def let_time_pass() -> None:
            nonlocal now
            now += 1  # more than a generator may have the event loop
            has_waited.set()

        async def waiting() -> AsyncIterator[str]:
            nonlocal is_asked_for_more
            call_soon(current_token(), let_time_pass)
            await has_waited.wait()
            call_soon(current_token(), lambda: seen.append(is_asked_for_more))
            yield "token"
            is_asked_for_more = True
            await anyio.sleep(0.01)

        run = await runs.start(waiting())
        assert (await run.wait()).state == "done"
        assert seen == [True]


@pytest.mark.parametrize("setting", [["memory", "asyncio"]])
async def test_the_only_follower_is_sent_a_token_in_the_turn_in_which_it_is_yielded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by `EventSourceResponse`. More followers are told in turns of their own, as those of a
    channel are."""
    # A busy machine may take the time of a turn between the two tokens.
    monkeypatch.setattr("sserpent.channels.runs.turns.monotonic", lambda: 0.0)
    loop = asyncio.get_running_loop()
    runs = Channels().runs("answers", int)
    counted: list[list[int]] = []

    for count in (1, 2):
        clients = [Client() for _ in range(count)]
        goes_on = asyncio.Event()

        async def answer(clients: list[Client], goes_on: asyncio.Event) -> AsyncIterator[int]:
            await goes_on.wait()
            loop.call_soon(lambda: counted.append([len(said(each)) for each in clients]))
            yield 1
            yield 2
            await asyncio.sleep(0)

        run = await runs.start(answer(clients, goes_on))
        async with anyio.create_task_group() as tasks:
            for each in clients:
                tasks.start_soon(each.run, run.follow())
                await each.until(lambda each=each: each.started)
            goes_on.set()
        assert all(said(each) == [1, 2] for each in clients)
        # Both tokens go together, and then the end of the run.
        assert [len(each.bodies) for each in clients] == [2] * count
    assert counted == [[2], [0, 0]]


class _WokenMeanwhile(dict[Any, None]):
    """Subscribers of a tail. Where they are counted while it is woken, another thread acts.

    Args:
        subscribers: Those that there are.
        is_woken: Whether the tail is woken.
        call: Called once, in another thread, which is waited for.
    """

    def __init__(
        self, subscribers: Any, is_woken: Callable[[], bool], call: Callable[[], object]
    ) -> None:
        super().__init__(subscribers)
        self.was_called = False
        self._is_woken = is_woken
        self._call = call

    def __len__(self) -> int:
        if not self.was_called and self._is_woken():
            self.was_called = True
            thread = threading.Thread(target=self._call)
            thread.start()
            thread.join()
        return super().__len__()


@pytest.mark.parametrize("setting", [["memory", "asyncio"], ["memory", "trio"]])
async def test_what_another_thread_publishes_while_a_token_is_sent_is_heard_at_once() -> None:
    async with Channels() as channels:
        news, runs = channels.channel("news", int), channels.runs("answers", int)
        goes_on, ends = anyio.Event(), anyio.Event()

        async def answer() -> AsyncIterator[int]:
            await goes_on.wait()
            yield 1
            await ends.wait()

        run = await runs.start(answer())
        async with connected(news.subscribe()) as client, connected(run.follow()) as follower:
            hub = runs._hubs.hub()
            tail = next(each for each in hub._tails.values() if each.key.channel != "news")
            tail.subscribers = subscribers = _WokenMeanwhile(
                tail.subscribers, lambda: tail.woken, lambda: news.publish_soon(7)
            )
            goes_on.set()
            await client.has(7)  # though nothing else happens
            assert subscribers.was_called
            ends.set()
            await follower.until(lambda: follower.complete)


async def test_what_a_generator_publishes_itself_is_heard_before_it_goes_on(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news, runs = channels.channel("news", int), channels.runs("answers", int)

        async def answer() -> AsyncIterator[int]:
            for n in range(5):
                await news.publish(n)
                yield n
                await client.until(lambda n=n: client.data == [*range(n + 1)])

        async with connected(news.subscribe()) as client:
            run = await runs.start(answer())
            assert said(await followed(runs, run.id)) == [*range(5)]


async def test_items_that_a_protocol_leaves_out_leave_the_event_loop_its_turns(
    make_channels: MakeChannels,
) -> None:
    class Silent(ProtocolResponse):
        @classmethod
        def as_event(cls, item: Any, number: int) -> Any:
            return None

    async with make_channels() as channels:
        runs = channels.runs("answers", dict, response_class=Silent)

        async def endless() -> AsyncIterator[dict[str, int]]:
            while True:
                yield {}

        run = await runs.start(endless())
        with anyio.fail_after(20):
            await run.stop()
            assert (await run.wait()).state == "stopped"


async def test_whoever_waits_for_the_end_has_nothing_decoded_before_it(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Entry] = []
    event = Entry.event
    monkeypatch.setattr(
        Entry, "event", lambda self, *args: decoded.append(self) or event(self, *args)
    )

    async with make_channels() as channels:
        runs, answer = channels.runs("answers", int), Answer()
        run = await runs.start(answer())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.wait)
            await anyio.wait_all_tasks_blocked()
            answer.say(*range(50))
            answer.end()
        assert (await run.wait()).state == "done"
    assert {each.is_run_end for each in decoded} <= {True}
