"""P16 to P18, P22 to P24: keys, of which each has at most one active run, and what runs say of
themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

import run_places
from channel_clients import Client, MakeChannels, connected
from redis_checks import until
from redis_server import RedisServer
from run_answers import Answer, answering, end_of, followed, said
from run_places import in_memory
from sserpent import EventSourceResponse
from sserpent._runtime.loops import current_time
from sserpent.channels import Channels, Runs, RunStatus, Subscription
from sserpent.channels import Run as StartedRun
from sserpent.channels.history.broker import BrokerUnavailable
from sserpent.channels.runs.producer import Producer
from sserpent.protocols import OpenAIChat, StreamEnd

pytestmark = pytest.mark.anyio

setting, anyio_backend, make_channels = (
    run_places.setting,
    run_places.anyio_backend,
    run_places.make_channels,
)


async def status_of(awaitable: Any) -> int:
    """The status of the `HTTPException` that something raises."""
    with pytest.raises(HTTPException) as error:
        await awaitable
    return error.value.status_code


async def body_of(subscription: Any) -> Client:
    client = Client()
    with anyio.fail_after(60):
        await client.run(subscription)
    return client


def closes(answers: list[Answer]) -> int:
    return sum(not each.entered for each in answers)


async def test_p16_a_second_start_is_refused_while_a_run_of_its_key_is_active(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, first, second = channels.runs("answers", shutdown_grace=0), Answer(), Answer()
        started = await runs.start(first(), key="chat", owner=1)
        source = second()
        assert await status_of(runs.start(source, key="chat", owner="1")) == 409
        assert await status_of(runs.start(second(), key="chat", owner=1, id="other")) == 409
        with pytest.raises(StopAsyncIteration):
            await anext(source)  # it was closed
        # Another key, and another owner's, are free.
        for other in (
            {"key": "other", "owner": 1},
            {"key": "chat"},
            {"key": "chat", "owner": 2},
        ):
            await runs.start(Answer()(), **other)
        first.end()
        await started.wait()
        await runs.start(second(), key="chat", owner=1)


async def test_p16_a_start_that_joins_gets_the_active_run(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs, first, second = channels.runs("answers", shutdown_grace=0), Answer(), Answer()
        started = await runs.start(first(), key="chat", if_active="join")
        joined = await runs.start(second(), key="chat", if_active="join")
        assert joined.id == started.id
        first.say("a")
        first.end()
        client = await body_of(joined.follow())
        assert said(client) == ["a"]
        assert not second.entered
        again = await runs.start(second(), key="chat", if_active="join")
        assert again.id != started.id


async def test_p16_a_start_that_stops_begins_at_once_and_the_old_end_frees_nothing(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, new = channels.runs("answers", shutdown_grace=0), Answer()
        cleaning_up, may_end = anyio.Event(), anyio.Event()

        async def slow() -> AsyncIterator[str]:
            try:
                yield "old"
                await anyio.sleep_forever()
            finally:
                cleaning_up.set()
                with anyio.CancelScope(shield=True):
                    await may_end.wait()

        old = await runs.start(slow(), key="chat")
        async with connected(old.follow()) as client:
            await client.until(lambda: said(client) == ["old"])
        started = await runs.start(new(), key="chat", if_active="stop")
        with anyio.fail_after(30):
            await cleaning_up.wait()
        active = await runs.active("chat")
        assert active is not None
        assert active.id == started.id
        may_end.set()
        assert (await old.wait()).state == "stopped"
        assert end_of(await followed(runs, old.id)) == ("stopped", "request")
        # The key is still the new one's.
        assert await status_of(runs.start(Answer()(), key="chat")) == 409
        new.end()
        await started.wait()


async def test_p16_an_id_that_exists_comes_before_the_key(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs, first, second = channels.runs("answers", shutdown_grace=0), Answer(), Answer()
        old = await runs.start(first(), key="chat", id="message-1")
        assert (await runs.start(Answer()(), key="chat", id="message-1")).id == old.id
        first.end()
        await old.wait()
        new = await runs.start(second(), key="chat", id="message-2")
        for if_active in ("refuse", "join", "stop"):
            again = await runs.start(Answer()(), key="chat", id="message-1", if_active=if_active)  # type: ignore[arg-type]
            assert again.id == "message-1"
        assert (await runs.status(new.id)).state == "running"


async def test_p16_what_happens_to_a_run_of_a_key_needs_the_key(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers")
        for if_active in ("join", "stop"):
            answer = Answer()
            source = answer()
            with pytest.raises(
                ValueError, match=f"'if_active' is '{if_active}', but 'key' is miss"
            ):
                await runs.start(source, if_active=if_active)  # type: ignore[arg-type]
            assert [item async for item in source] == []  # it was closed
            with pytest.raises(ValueError, match="but 'key' is missing"):
                await runs.start(Answer()(), id="a", if_active=if_active)  # type: ignore[arg-type]


@pytest.mark.parametrize("if_active", ["refuse", "join", "stop"])
async def test_p16_of_ten_starts_at_once_one_is_active(
    make_channels: MakeChannels, if_active: Any
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        answers = [Answer() for _ in range(10)]
        ids: list[str] = []
        refused: list[int] = []

        async def start(answer: Answer) -> None:
            try:
                ids.append((await runs.start(answer(), key="chat", if_active=if_active)).id)
            except HTTPException as error:
                refused.append(error.status_code)

        async with anyio.create_task_group() as tasks:
            for answer in answers:
                tasks.start_soon(start, answer)
        active = await runs.active("chat")
        assert active is not None
        if if_active == "refuse":
            assert ids == [active.id]
            assert refused == [409] * 9
        elif if_active == "join":
            assert ids == [active.id] * 10
        else:
            assert len(set(ids)) == 10
            for each in set(ids) - {active.id}:
                with anyio.fail_after(30):
                    assert (await runs.wait(each)).state == "stopped"
        await until(lambda: sum(a.entered and not a.cleaned_up for a in answers) == 1)
        assert (await runs.status(active.id)).state == "running"


async def test_p16_the_same_start_twice_at_once_runs_once(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        answers = [Answer() for _ in range(5)]
        ids: list[str] = []

        async def start(answer: Answer) -> None:
            ids.append((await runs.start(answer(), key="chat", id="message")).id)

        async with anyio.create_task_group() as tasks:
            for answer in answers:
                tasks.start_soon(start, answer)
        assert ids == ["message"] * 5
        await until(lambda: sum(each.entered for each in answers) == 1)


async def test_p17_a_stop_frees_the_key_when_the_run_has_ended_its_cleanup_included(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, may_end = channels.runs("answers", shutdown_grace=0), anyio.Event()
        entered = anyio.Event()

        async def slow() -> AsyncIterator[str]:
            try:
                entered.set()
                await anyio.sleep_forever()
                yield ""
            finally:
                with anyio.CancelScope(shield=True):
                    await may_end.wait()

        started = await runs.start(slow(), key="chat")
        with anyio.fail_after(30):
            await entered.wait()
        await runs.stop(key="chat")
        assert await status_of(runs.start(Answer()(), key="chat")) == 409
        may_end.set()
        assert (await started.wait()).state == "stopped"
        assert await runs.active("chat") is None
        await runs.start(Answer()(), key="chat")


@in_memory
@pytest.mark.virtual_time
async def test_p17_a_run_that_was_lost_is_not_active_and_its_producer_comes_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dead(self: Any) -> None:
        """A producer whose lease nobody renews."""

    monkeypatch.setattr("sserpent.channels.history.memory.monotonic", current_time)
    monkeypatch.setattr("sserpent.channels.history.memory.is_running", lambda token: False)
    async with answering(Channels) as (runs, _, _):
        with monkeypatch.context() as patch:
            patch.setattr("sserpent.channels.runs.producer.Producer.renew_soon", dead)
            stale = Answer()
            old = await runs.start(stale(), key="chat")
            await anyio.sleep(14)
            assert await status_of(runs.start(Answer()(), key="chat")) == 409
            await anyio.sleep(2)
            assert await runs.active("chat") is None
            client = await body_of(await runs.follow(key="chat"))
            assert client.status == 204
            new = await runs.start(Answer()(), key="chat")
        assert (await runs.status(old.id)).state == "lost"
        stale.say("too late")
        assert said(await body_of(await runs.follow(old.id))) == []
        assert await runs.active("chat") is not None
        await runs.stop(new.id)


async def test_p17_a_key_that_was_lost_is_taken_back_or_ends_the_older_run(
    make_channels: MakeChannels,
) -> None:
    """As an eviction does it, or a failover."""

    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        answer = Answer()
        answer.say("a")
        old = await runs.start(answer(), key="chat")
        [producer] = runs._local.producers
        await until_async(lambda: _has(runs, old, 1, None))
        await _lose(runs, "chat")
        producer.renew_soon()
        await until_async(lambda: runs.active("chat"))
        await _lose(runs, "chat")
        new = await runs.start(Answer()(), key="chat")
        producer.renew_soon()
        with anyio.fail_after(30):
            status = await old.wait()
        assert (status.state, status.reason, status.events) == ("lost", None, 1)
        active = await runs.active("chat")
        assert active is not None
        assert active.id == new.id


@pytest.mark.parametrize("setting", ["redis-asyncio"], indirect=True)
async def test_p16_a_run_that_redis_lost_is_started_again_and_both_give_back_their_places(
    kept_redis: RedisServer,
) -> None:
    prefix = "test-lost"
    async with Channels(kept_redis.url, prefix=prefix) as channels:
        runs = channels.runs("answers", shutdown_grace=0, max_runs_per_owner=2)
        await runs.start(Answer()(), owner=1, id="same")
        [lost] = runs._local.producers
        kept_redis.ask("FLUSHALL")
        again = await runs.start(Answer()(), owner=1, id="same")
        lost.renew_soon()
        with anyio.fail_after(30):
            await lost.ended.wait()
        await runs.start(Answer()(), owner=1)
        assert await status_of(runs.start(Answer()(), owner=1)) == 429
        await again.stop()
        await until(lambda: len(runs._local.producers) == 1)
        await runs.start(Answer()(), owner=1)
    assert not runs._local._slots._taken
    assert not runs._local._places


async def test_p17_a_run_that_is_stopped_for_its_key_is_not_told_as_lost(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded that the run is to stop, after its producer has looked for that and before it
    looks at its key."""

    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        monkeypatch.setattr(Producer, "stop", lambda self, reason: None)  # it comes too late
        old = await runs.start(Answer()(), key="chat")
        [producer] = runs._local.producers
        is_superseded = runs._keys.is_superseded

        async def after_a_takeover(claim: Any) -> bool:
            monkeypatch.setattr(runs._keys, "is_superseded", is_superseded)
            await runs.start(Answer()(), key="chat", if_active="stop")
            return await is_superseded(claim)

        monkeypatch.setattr(runs._keys, "is_superseded", after_a_takeover)
        producer.renew_soon()
        with anyio.fail_after(30):
            status = await old.wait()
        assert (status.state, status.reason) == ("stopped", "request")


async def test_p17_followers_of_a_protocol_read_an_error_when_a_run_loses_its_key(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", response_class=OpenAIChat, shutdown_grace=0)
        answer = Answer()
        answer.say({"n": 1})
        old = await runs.start(answer(), key="chat")
        [producer] = runs._local.producers
        await until_async(lambda: _has(runs, old, 1, None))
        await _lose(runs, "chat")
        await runs.start(Answer()(), key="chat")
        producer.renew_soon()
        client = await body_of(old.follow())
        assert client.body.startswith(b'data: {"n":1}\n\ndata: {"error":')
        assert b"[DONE]" not in client.body


async def _lose(runs: Runs[Any], key: str) -> None:
    name = runs._key(key, None)
    holder = await runs._broker.holder(name)
    assert holder is not None
    await runs._broker.free(name, holder)
    assert await runs.active(key) is None


async def until_async(ask: Any) -> None:
    with anyio.fail_after(30):
        while not await ask():
            await anyio.sleep(0.01)


async def test_p16_a_run_that_stops_another_has_its_place(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0, max_runs_per_owner=1)
        first = await runs.start(Answer()(), owner=1, key="chat")
        assert await status_of(runs.start(Answer()(), owner=1, key="other")) == 429
        assert await runs.active("other", owner=1) is None
        second = await runs.start(Answer()(), owner=1, key="chat", if_active="stop")
        await first.wait()
        assert await status_of(runs.start(Answer()(), owner=1, key="other")) == 429
        await second.stop()
        await second.wait()
        await until(lambda: not runs._local.producers)
        await runs.start(Answer()(), owner=1, key="other")


async def test_p18_follow_by_key_is_the_active_run_from_its_beginning_or_a_204(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers", shutdown_grace=0), Answer()
        nothing = await runs.follow(key="chat", owner=1)
        assert isinstance(nothing, Subscription)
        client = await body_of(nothing)
        assert (client.status, client.body) == (204, b"")
        started = await runs.start(answer(), owner=1, key="chat")
        assert (await body_of(await runs.follow(key="chat", owner=2))).status == 204
        answer.say("a")
        async with connected(await runs.follow(key="chat", owner="1")) as client:
            await client.until(lambda: said(client) == ["a"])
            assert client.headers["run-id"] == started.id
            assert client.headers["access-control-expose-headers"] == "Run-ID"
            answer.end()
            await client.until(lambda: client.complete)
        await started.wait()
        assert (await body_of(await runs.follow(key="chat", owner=1))).status == 204


async def test_p18_stop_by_key_stops_the_active_run_and_nothing_else(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        await runs.stop(key="chat")
        started = await runs.start(Answer()(), key="chat", owner=1)
        await runs.stop(key="chat")
        await runs.stop(key="chat", owner=2)
        assert (await runs.status(started.id, owner=1)).state == "running"
        await runs.stop(key="chat", owner=1)
        assert (await started.wait()).state == "stopped"


KEYS = [7, "7", UUID(int=7), "é", "a b/c:{x}", "x" * 512]


@pytest.mark.parametrize("key", KEYS, ids=lambda each: repr(each)[:12])
async def test_p23_keys_are_compared_by_their_text(make_channels: MakeChannels, key: Any) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers", shutdown_grace=0)
        started = await runs.start(Answer()(), key=key, owner="")
        for text in (key, str(key)):
            active = await runs.active(text, owner="")
            assert active is not None
            assert active.id == started.id
        assert await runs.active(key) is None  # nobody's


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"key": True}, TypeError, "'key' must be a str, int or UUID, not bool"),
        ({"key": b"chat"}, TypeError, "'key' must be a str, int or UUID, not bytes"),
        ({"key": "x" * 513}, ValueError, "'key' must have at most 512 bytes"),
        ({"key": "chat", "if_active": "enqueue"}, ValueError, "'if_active' must be one of"),
        ({"key": "chat", "if_active": None}, TypeError, "'if_active' must be a string"),
        ({"id": "a b"}, ValueError, "'id' must be"),
        ({"owner": 1.5}, TypeError, "'owner' must be"),
    ],
    ids=str,
)
async def test_p16_a_start_with_a_bad_argument_closes_its_source(
    make_channels: MakeChannels, arguments: Any, error: Any, names: str
) -> None:
    async with make_channels() as channels:
        runs, source = channels.runs("answers"), Answer()()
        with pytest.raises(error, match=names):
            await runs.start(source, **arguments)
        with pytest.raises(StopAsyncIteration):
            await anext(source)


@pytest.mark.parametrize("arguments", [{}, {"run_id": "a", "key": "b"}], ids=["neither", "both"])
async def test_p18_a_run_is_named_by_its_id_or_its_key(
    make_channels: MakeChannels, arguments: Any
) -> None:
    async with make_channels() as channels:
        runs = channels.runs("answers")
        for method in (runs.follow, runs.stop):
            with pytest.raises(TypeError, match="'run_id' or 'key', one of them, not"):
                await method(**arguments)
        for key in (True, 1.5, b"x"):
            for method in (runs.follow, runs.stop):
                with pytest.raises(TypeError, match="'key' must be a str, int or UUID"):
                    await method(key=key)  # type: ignore[arg-type]


async def test_p22_status_and_wait_say_how_a_run_stands(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        runs, answer = channels.runs("answers", shutdown_grace=0), Answer()
        started = await runs.start(answer(), owner=1)
        assert await runs.status(started.id, owner=1) == RunStatus(started.id, "running")
        ends: list[RunStatus] = []

        async def wait() -> None:
            ends.append(await started.wait())

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(wait)
                answer.say("a", "b")
                await until_async(partial(_has, runs, started, 2, 1))
                answer.end()
        done = RunStatus(started.id, "done", events=2)
        assert [*ends, await started.wait(), await runs.status(started.id, owner=1)] == [done] * 4
        for method in (runs.status, runs.wait):
            assert await status_of(method(started.id)) == 404
            assert await status_of(method("a b")) == 404


async def _has(runs: Runs[Any], started: StartedRun[Any], events: int, owner: Any) -> bool:
    return (await runs.status(started.id, owner=owner)).events == events


@pytest.mark.parametrize(
    ("raised", "reason", "status"),
    [
        (HTTPException(429, "Slow down"), "Slow down", 429),
        (HTTPException(503), "Service Unavailable", 503),
        (HTTPException(400, {"not": "text"}), "Bad Request", 400),
        (HTTPException(400, ""), "Bad Request", 400),
        (HTTPException(499, {"not": "text"}), "Internal server error", 499),
        (HTTPException(400, "é" * 1_000), "é" * 1_000, 400),
        (HTTPException(400, "é" * 1_001), "é" * 999 + "…", 400),
        (RuntimeError("secret"), "exception", None),
    ],
    ids=["detail", "phrase", "object", "empty", "no phrase", "long", "too long", "other"],
)
async def test_p20_an_http_exception_is_the_reason_and_has_its_status(
    make_channels: MakeChannels, raised: Exception, reason: str, status: int | None
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a", raised)
        client = await body_of(started.follow())
        [end] = [each.data for each in client.seen if each.type == "run-end"]
        expected = {"run": started.id, "end": "error", "reason": reason}
        assert end == (expected if status is None else {**expected, "status": status})
        assert await runs.status(started.id) == RunStatus(started.id, "error", reason, status, 1)
        if status is not None:  # what a client of a protocol reads
            assert StreamEnd("error", reason, status).message == reason


async def test_p15_a_number_says_which_event_is_the_last_that_a_client_has(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels) as (runs, answer, started):
        answer.say("a", "b", "c")
        await until_async(partial(_has, runs, started, 3, None))
        async with connected(await runs.follow(started.id, after=1)) as client:
            await client.until(lambda: said(client) == ["c"])
        for no_place in (-1, 3, 10**20):
            async with connected(started.follow(after=no_place)) as client:
                await client.until(lambda client=client: len(client.seen) == 4)
                assert client.seen[0].type == "reset"
        answer.end()
        await started.wait()
        client = await body_of(started.follow(after=2))
        assert (said(client), end_of(client)) == ([], ("done", None))
        for behind in (3, 4, 10**20):
            assert (await body_of(await runs.follow(started.id, after=behind))).status == 204
            assert (await body_of(started.follow(after=behind))).status == 204
        for wrong in (True, 1.5, b"1"):
            with pytest.raises(TypeError, match="'after' must be an id, the number"):
                started.follow(after=wrong)  # type: ignore[arg-type]


async def test_p24_a_response_that_cannot_look_says_404_when_it_is_called(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels) as (runs, _, _):
        gone: Any = StartedRun(runs, "gone", None)
        assert await status_of(Client().run(gone.follow())) == 404
        assert await status_of(gone.wait()) == 404
        assert await status_of(gone.stop()) == 404


@in_memory
@pytest.mark.virtual_time
async def test_p24_a_broker_that_is_slow_to_fail_is_away_and_not_without_a_run() -> None:
    async def with_a_slow_broker(runs: Runs) -> None:
        broker: Any = runs._broker
        started = await runs.start(Answer()(), key="chat")
        for method in ("holder", "status"):
            answer = getattr(broker, method)
            setattr(broker, method, failing_after(5))
            with pytest.raises(BrokerUnavailable):
                await runs.active("chat")
            with pytest.raises(BrokerUnavailable):
                await runs.stop(key="chat")
            client = await body_of(await runs.follow(key="chat"))
            assert client.status == 200
            assert b"\nretry: " in client.body
            setattr(broker, method, answer)
        holder = broker.holder

        async def slow(key: Any) -> Any:
            await anyio.sleep(5)
            return await holder(key)

        broker.holder = slow
        active = await runs.active("chat")
        assert active is not None
        assert active.id == started.id

    def failing_after(seconds: float) -> Any:
        async def fail(*_: Any) -> Any:
            await anyio.sleep(seconds)
            raise BrokerUnavailable("it is away")

        return fail

    async with answering(Channels) as (runs, _, _):
        await with_a_slow_broker(runs)
    async with answering(Channels, response_class=OpenAIChat) as (runs, _, _):
        runs._broker.holder = failing_after(5)  # type: ignore[method-assign]
        assert await status_of(runs.follow(key="chat")) == 503


@in_memory
@pytest.mark.virtual_time
async def test_p24_a_run_of_a_key_that_never_begins_is_not_active() -> None:
    async with answering(Channels) as (runs, _, _):
        await runs._keys.take(runs._keys.claim_of("chat", None, "never"), None, "refuse")
        began = current_time()
        assert await runs.active("chat") is None
        assert 2 <= current_time() - began < 3


def test_p24_runs_in_an_application() -> None:
    channels = Channels()
    runs = channels.runs("answers", str, shutdown_grace=0)
    app = FastAPI(lifespan=channels.lifespan)

    async def answer(prompt: str) -> AsyncIterator[str]:
        yield prompt
        if prompt == "wait":
            await anyio.sleep_forever()

    @app.post("/chats/{chat}", response_class=EventSourceResponse)
    async def ask(chat: str, prompt: str) -> Subscription[str]:
        return (await runs.start(answer(prompt), key=chat)).follow()

    @app.post("/chats/{chat}/background")
    async def begin(chat: str) -> str:
        return (await runs.start(answer("wait"), key=chat)).id

    @app.get("/chats/{chat}", response_class=EventSourceResponse)
    async def follow(chat: str) -> Any:
        return await runs.follow(key=chat)

    @app.get("/runs/{run_id}")
    async def status(run_id: str) -> RunStatus:
        return await runs.status(run_id)

    @app.delete("/chats/{chat}")
    async def stop(chat: str) -> None:
        await runs.stop(key=chat)

    with TestClient(app) as client:
        assert client.get("/chats/1").status_code == 204
        first = client.post("/chats/1?prompt=one")
        assert 'data: "one"' in first.text
        # The second prompt has an answer of its own.
        assert 'data: "two"' in client.post("/chats/1?prompt=two").text
        run_id = first.headers["run-id"]
        told = client.get(f"/runs/{run_id}").json()
        assert told == {"id": run_id, "state": "done", "reason": None, "status": None, "events": 1}
        client.post("/chats/2/background")
        refused = client.post("/chats/2?prompt=more")
        assert (refused.status_code, refused.json()) == (409, {"detail": "A run is active already"})
        assert client.delete("/chats/2").status_code == 200
        assert client.get("/chats/2").status_code in (200, 204)
        document = client.get("/openapi.json").json()
        content = document["paths"]["/chats/{chat}"]["post"]["responses"]["200"]["content"]
        assert "itemSchema" in content["text/event-stream"]
