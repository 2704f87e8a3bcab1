"""Runs on Redis, between real processes: X1 to X8 where a producer dies, stalls or loses Redis."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from channel_clients import Client, Seen, offset_of, seen_in
from event_loops import asyncio_only
from proxy import Proxy
from redis_checks import until as soon
from redis_server import RedisServer
from servers import Server, until, uvicorn
from sserpent import EventSourceResponse
from sserpent.channels import BrokerUnavailable, Channels, Subscription
from sserpent.channels.redis.runs import RedisRuns

pytestmark = pytest.mark.anyio

Serve = Callable[..., Server]
NAME = "answer"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer(appendonly="yes", appendfsync="always")
    yield server
    server.close()


@pytest.fixture
def serve(redis: RedisServer) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(**environment: str) -> Server:
        environment["REDIS_URL"] = redis.url
        servers.append(Server(uvicorn("redis_runs_app:app"), **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
        server.process.kill()
        server.close()


def ask(server: Server, name: str = NAME, **parameters: Any) -> None:
    answer = httpx.post(f"{server.url}/answers/{name}", params=parameters, timeout=30)
    assert answer.status_code == 200, server.log


def stop(server: Server, name: str = NAME, **parameters: Any) -> int:
    url = f"{server.url}/answers/{name}"
    return httpx.delete(url, params=parameters, timeout=30).status_code


def notes(server: Server) -> list[str]:
    noted: list[str] = httpx.get(f"{server.url}/notes", timeout=30).json()
    return noted


class Follower:
    """One who follows a run, from another process than its producer's or the same."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.iter_raw()
        self.status = response.status_code
        self.body = b""

    @property
    def seen(self) -> list[Seen]:
        return seen_in(self.body)

    @property
    def numbers(self) -> list[int]:
        return [each.data for each in self.seen if each.type == "message"]

    def until(self, count: int) -> None:
        """Reads on until there are so many events."""
        while len(self.seen) < count:
            self.body += next(self._chunks)

    def to_the_end(self) -> tuple[str, str | None]:
        """Reads on, and returns how the run has ended: once, and as the last thing."""
        for chunk in self._chunks:
            self.body += chunk
        ends = [each for each in self.seen if each.type == "run-end"]
        assert ends == self.seen[-1:]
        return ends[0].data["end"], ends[0].data["reason"]


@contextmanager
def following(server: Server, name: str = NAME, **parameters: Any) -> Iterator[Follower]:
    url = f"{server.url}/answers/{name}"
    with httpx.stream("GET", url, params=parameters, timeout=60) as response:
        yield Follower(response)


def outcome(server: Server, name: str = NAME, **parameters: Any) -> tuple[Follower, Any]:
    with following(server, name, **parameters) as follower:
        return follower, follower.to_the_end()


def without_a_hole(follower: Follower) -> bool:
    return follower.numbers == list(range(len(follower.numbers)))


def test_x4_a_producer_that_is_killed_is_lost(serve: Serve) -> None:
    one, other = serve(), serve()
    ask(one)
    with following(other) as follower:
        follower.until(3)
        one.process.kill()
        assert follower.to_the_end() == ("lost", None)
        assert without_a_hole(follower)
    # Whoever follows later is told the same, and whoever knows it has nothing to follow.
    later, end = outcome(other)
    assert end == ("lost", None)
    assert later.seen == follower.seen
    with following(other, last_event_id=later.seen[-1].id) as again:
        assert again.status == 204
    # Nothing is run twice.
    ask(other)
    assert notes(other) == []


def test_x3_a_run_is_stopped_from_another_process(serve: Serve) -> None:
    one, other = serve(), serve()
    ask(one)
    with following(other) as follower:
        follower.until(2)
        assert stop(other) == 204
        assert stop(other) == 204
        assert follower.to_the_end() == ("stopped", "request")
        assert without_a_hole(follower)
    assert notes(one) == ["answer began", "answer ended"]
    assert stop(one) == 204
    assert outcome(one)[1] == ("stopped", "request")


def test_x3_a_stop_is_heard_where_the_subscription_was_lost(
    serve: Serve, redis: RedisServer
) -> None:
    one, other = serve(LEASE="60"), serve(LEASE="60")
    ask(one)
    with following(other) as follower:
        follower.until(2)
        os.kill(one.process.pid, signal.SIGSTOP)
        redis.kill_clients("pubsub")
        assert stop(other) == 204
        os.kill(one.process.pid, signal.SIGCONT)
        assert follower.to_the_end() == ("stopped", "request")


def test_x5_of_two_starts_in_two_processes_one_runs(serve: Serve) -> None:
    servers = serve(), serve()
    names = [f"answer-{number}" for number in range(10)]
    with ThreadPoolExecutor(20) as threads:
        both = [(server, name) for name in names for server in servers]
        list(threads.map(lambda each: ask(*each, numbers=3, pause=0), both))
    for name in names:
        follower, end = outcome(servers[0], name)
        assert follower.numbers == [0, 1, 2]
        assert end == ("done", None)
    noted = [note for server in servers for note in notes(server)]
    assert sorted(noted) == sorted(f"{name} {end}" for name in names for end in ("began", "ended"))


def test_x1_a_producer_that_stalls_beyond_its_lease_appends_nothing_more(serve: Serve) -> None:
    one, other = serve(), serve()
    ask(one)
    with following(other) as follower:
        follower.until(2)
        os.kill(one.process.pid, signal.SIGSTOP)
        assert follower.to_the_end() == ("lost", None)
    os.kill(one.process.pid, signal.SIGCONT)
    until(lambda: notes(one) == ["answer began", "answer ended"], timeout=30)
    assert outcome(one)[0].seen == outcome(other)[0].seen == follower.seen


def test_x1_a_producer_that_stalls_goes_on_if_nobody_has_missed_it(serve: Serve) -> None:
    one, other = serve(), serve()
    ask(one, numbers=20)
    os.kill(one.process.pid, signal.SIGSTOP)
    os.kill(one.process.pid, signal.SIGCONT)
    follower, end = outcome(other)
    assert end == ("done", None)
    assert follower.numbers == list(range(20))


def test_x6_followers_elsewhere_see_an_error_and_no_internals(serve: Serve) -> None:
    one, other = serve(), serve()
    ask(one, kind="fail")
    follower, end = outcome(other)
    assert end == ("error", "exception")
    assert b"secret" not in follower.body
    assert "the password is secret" in one.log


def test_x7_a_run_beyond_max_bytes_ends_and_says_so(serve: Serve) -> None:
    one, other = serve(), serve()
    ask(one, kind="exceed")
    follower, (end, reason) = outcome(other)
    assert end == "error"
    assert "'max_bytes' (20000)" in str(reason)
    assert 15_000 < len(b"".join(each.data.encode() for each in follower.seen[:-1])) <= 20_000


@pytest.mark.parametrize("name", ["answer", "abrupt"])
def test_x8_a_run_ends_with_its_server(serve: Serve, name: str) -> None:
    one, other = serve(), serve()
    ask(one, name, numbers=20 if name == "answer" else 1_000_000)
    with following(other, name) as follower:
        follower.until(2)
        one.process.send_signal(signal.SIGTERM)
        end = follower.to_the_end()
    one.process.wait(30)
    assert "Traceback" not in one.log
    if name == "abrupt":
        assert end == ("stopped", "shutdown")
    else:  # it has the time to go on
        assert end == ("done", None)
        assert follower.numbers == list(range(20))


def names(redis: RedisServer) -> list[str]:
    """The names of keys of runs: every process follows another one, for `disconnect`."""
    return [name for name in redis.names() if ":answers" in name]


def test_x2_nothing_is_left_of_a_run_when_its_ttl_is_over(serve: Serve, redis: RedisServer) -> None:
    one, other = serve(TTL="2"), serve()
    ask(one, numbers=80)  # which takes longer than the `ttl`
    follower, end = outcome(other)
    assert end == ("done", None)
    assert follower.numbers == list(range(80))
    until(lambda: not names(redis))
    with following(other) as late:
        assert late.status == 404


def test_x4_nothing_is_left_of_a_run_that_was_lost_with_nobody_there(
    serve: Serve, redis: RedisServer
) -> None:
    one = serve(TTL="1")
    ask(one)
    one.process.kill()
    assert names(redis)
    until(lambda: not names(redis))


def test_x5_a_run_of_another_is_unknown_in_every_process(serve: Serve, redis: RedisServer) -> None:
    one, other = serve(), serve()
    ask(one, numbers=3)
    outcome(other)
    before = redis.names()
    for server in (one, other):
        for name, owner in ((NAME, "you"), ("unknown", "me")):
            assert stop(server, name, owner=owner) == 404
            with following(server, name, owner=owner) as follower:
                assert follower.status == 404
    assert redis.names() == before


def test_c12_redis_restarts_in_the_middle_and_the_run_goes_on(
    serve: Serve, redis: RedisServer
) -> None:
    one, other = serve(LEASE="60"), serve(LEASE="60")
    ask(one, numbers=60)
    with following(other) as follower:
        follower.until(5)
        redis.kill()
        with following(other) as early:
            assert early.status == 200
            assert b"retry: " in b"".join(early._chunks)
        redis.start()
        assert follower.to_the_end() == ("done", None)
        assert follower.numbers == list(range(60))
    later, end = outcome(one)
    assert end == ("done", None)
    assert later.seen == follower.seen


def test_c12_an_end_waits_for_redis(serve: Serve, redis: RedisServer) -> None:
    one, other = serve(LEASE="60"), serve(LEASE="60")
    ask(one, numbers=10)
    with following(other) as follower:
        follower.until(5)
        redis.kill()
        # It yields one more, which waits, and so does the end.
        redis.start()
        assert follower.to_the_end() == ("done", None)
        assert follower.numbers == list(range(10))


@pytest.mark.parametrize("gone", ["history", "record", "all"])
def test_x2_a_history_that_was_evicted_is_reset_and_lost(
    serve: Serve, redis: RedisServer, gone: str
) -> None:
    one, other = serve(), serve()
    ask(one)
    with following(other) as follower:
        follower.until(3)
        for name in redis.names():
            is_history = not name.endswith(":run") and "answers" in name
            is_record = name.endswith(":run")
            if gone == "all" or (is_history if gone == "history" else is_record):
                redis.ask("DEL", name)
        assert follower.to_the_end() == ("lost", None)
        said = [each.type for each in follower.seen if each.type != "message"]
        assert said == (["run-end"] if gone == "record" else ["reset", "run-end"])
    until(lambda: notes(one) == ["answer began", "answer ended"])


def test_x2_a_history_that_was_evicted_after_its_end_is_reset_and_lost(
    serve: Serve, redis: RedisServer
) -> None:
    one, other = serve(), serve()
    ask(one, numbers=3)
    follower, end = outcome(other)
    assert end == ("done", None)
    for name in redis.names():
        if "answers" in name and not name.endswith(":run"):
            redis.ask("DEL", name)
    for after in ({}, {"last_event_id": follower.seen[0].id}):
        late, end = outcome(other, **after)
        assert end == ("lost", None)
        assert [each.type for each in late.seen] == ["reset", "run-end"]
        for name in redis.names():
            if "answers" in name and not name.endswith(":run"):
                redis.ask("DEL", name)


@pytest.mark.parametrize("gone", ["history", "record"])
@pytest.mark.parametrize("damage", ["garbage", "type"])
def test_x2_what_somebody_else_has_written_is_lost(
    serve: Serve, redis: RedisServer, gone: str, damage: str
) -> None:
    one, other = serve(), serve()
    ask(one)
    with following(other) as follower:
        follower.until(3)
        [name] = [each for each in redis.names() if "answers" in each and not each.endswith(":run")]
        if gone == "record":
            name += ":run"
        if damage == "type":
            redis.ask("SET", name, "garbage")
        elif gone == "history":
            redis.ask("XADD", name, "1000000-1", "foo", "bar")
        else:
            redis.ask("HSET", name, "lease", "garbage", "ttl", "garbage", "fence", "garbage")
        assert follower.to_the_end() == ("lost", None)
        said = {each.type for each in follower.seen if each.type != "message"}
        assert said <= {"reset", "run-end"}
        assert ("reset" in said) == (gone == "history")
    until(lambda: notes(one) == ["answer began", "answer ended"])
    assert outcome(one)[1] == ("lost", None)
    assert "Traceback" not in one.log + other.log


def test_x2_redis_is_emptied_in_the_middle_of_a_run(serve: Serve, redis: RedisServer) -> None:
    one, other = serve(MAX_BYTES="4000000"), serve(MAX_BYTES="4000000")
    ask(one, kind="count", pause=0)
    with following(other) as follower:
        follower.until(500)
        redis.ask("FLUSHALL")
        assert follower.to_the_end() == ("lost", None)
        assert [each.type for each in follower.seen if each.type != "message"] == [
            "reset",
            "run-end",
        ]
        assert without_a_hole(follower)
    until(lambda: notes(one) == ["answer began", "answer ended"])
    ask(other, numbers=3)
    assert "Traceback" not in one.log + other.log


def test_x4_a_producer_that_is_killed_in_a_flood_leaves_no_hole(serve: Serve) -> None:
    one, other = serve(MAX_BYTES="4000000"), serve(MAX_BYTES="4000000")
    ask(one, pause=0)
    with following(other) as follower:
        follower.until(500)
        one.process.kill()
        assert follower.to_the_end() == ("lost", None)
        assert without_a_hole(follower)
    assert outcome(other)[0].seen == follower.seen


def test_c12_a_full_redis_holds_a_run_up_and_loses_nothing(
    serve: Serve, redis: RedisServer
) -> None:
    one, other = serve(LEASE="60", MAX_BYTES="4000000"), serve(LEASE="60", MAX_BYTES="4000000")
    ask(one, numbers=500, pause=0.002)
    with following(other) as follower:
        follower.until(5)
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        until(lambda: "waits to be kept" in one.log)
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert follower.to_the_end() == ("done", None)
        assert follower.numbers == list(range(500))
    assert one.log.count("waits to be kept") == 1
    assert "Traceback" not in one.log + other.log


def test_c3_connections_are_killed_in_the_middle_of_a_run(serve: Serve, redis: RedisServer) -> None:
    one, other = serve(LEASE="60", MAX_BYTES="4000000"), serve(LEASE="60", MAX_BYTES="4000000")
    ask(one, numbers=1_500, pause=0.001)
    with following(other) as follower:
        for upto in range(100, 1_100, 100):
            follower.until(upto)
            redis.kill_clients("normal")
            redis.kill_clients("pubsub")
        assert follower.to_the_end() == ("done", None)
        assert follower.numbers == list(range(1_500))
    later, _ = outcome(one)
    assert later.seen == follower.seen
    assert "Traceback" not in one.log + other.log


@asyncio_only
async def test_c3_events_whose_answers_are_lost_are_there_once(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost for so long that they are appended again, and more with them."""
    monkeypatch.setattr("sserpent.channels.runs.producer._RETRY", 0.01)
    said: list[int] = []
    failed: list[BrokerUnavailable] = []
    append = RedisRuns.append

    async def append_and_note(self: RedisRuns, *args: Any) -> None:
        try:
            await append(self, *args)
        except BrokerUnavailable as error:
            failed.append(error)
            raise

    monkeypatch.setattr(RedisRuns, "append", append_and_note)

    async def answer() -> AsyncIterator[int]:
        while len(said) < 300:
            said.append(len(said))
            yield said[-1]
            await asyncio.sleep(0.001)

    with anyio.fail_after(60):
        async with Proxy(redis.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            async with Channels(url, publish_timeout=2) as channels:
                runs = channels.runs("answers")
                started = await runs.start(answer())
                for some in (50, 130, 210):
                    await soon(lambda some=some: len(said) >= some)  # type: ignore[misc]
                    before = len(failed)
                    proxy.loses_answers = True
                    await soon(lambda before=before: len(failed) > before)  # type: ignore[misc]
                    proxy.loses_answers = False
                client = Client()
                async with Channels(redis.url) as others:
                    await client.run(await others.runs("answers").follow(started.id))
        assert client.complete
        assert client.seen[-1].data["end"] == "done"
        assert [each.data for each in client.seen[:-1]] == list(range(300))
        assert [offset_of(each.id) for each in client.seen] == list(range(1, 302))


def test_what_is_yielded_without_waiting_goes_to_redis_together(
    serve: Serve, redis: RedisServer
) -> None:
    one = serve(LEASE="60")
    ask(one, numbers=1)  # the connections are there
    outcome(one)
    before = calls(redis)
    ask(one, "burst", kind="burst", numbers=1_000)
    follower, end = outcome(one, "burst")
    assert (end, follower.numbers) == (("done", None), list(range(1_000)))
    after = calls(redis)
    # So are those that go together stored, and again when the run has ended.
    assert after["xadd"] - before["xadd"] < 25
    # Ten of a hundred events, the start, the end, and what its follower asks.
    assert after["evalsha"] - before["evalsha"] < 25


def calls(redis: RedisServer) -> dict[str, int]:
    """How many times each command has been carried out."""
    told = redis.ask("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in told.items()}


def test_x8_a_server_ends_though_redis_is_away(serve: Serve, redis: RedisServer) -> None:
    one = serve()
    ask(one, "abrupt", pause=0)
    redis.kill()
    one.process.send_signal(signal.SIGTERM)
    one.process.wait(60)
    assert "The end of run 'abrupt' could not be recorded" in one.log
    assert "Traceback" not in one.log


def test_x8_a_server_ends_though_redis_is_silent(serve: Serve, redis: RedisServer) -> None:
    one = serve(LEASE="60")
    ask(one, "abrupt", pause=0.01)
    redis.pause()
    one.process.send_signal(signal.SIGTERM)
    one.process.wait(30)
    assert "The end of run 'abrupt' could not be recorded" in one.log
    assert "Traceback" not in one.log


def handler_of_the_page() -> str:
    page = (Path(__file__).parents[2] / "docs/runs.md").read_text(encoding="utf-8")
    (code,) = [
        each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "handler" in each
    ]
    return code


@asyncio_only
async def test_p24_while_redis_is_away_runs_are_a_503_by_the_handler_of_the_page(
    redis: RedisServer,
) -> None:
    channels = Channels(redis.url, publish_timeout=1)
    runs, app = channels.runs("answers"), FastAPI()
    exec(handler_of_the_page(), {"app": app})

    async def answer() -> AsyncIterator[int]:
        yield 1

    @app.post("/chats/{chat}")
    async def ask(chat: str) -> str:
        return (await runs.start(answer(), key=chat)).id

    @app.get("/chats/{chat}")
    async def look(chat: str) -> bool:
        return await runs.active(chat) is not None

    @app.get("/answers/{run_id}")
    async def status(run_id: str) -> str:
        return (await runs.status(run_id)).state

    @app.get("/answers/{run_id}/end")
    async def end(run_id: str) -> str:
        return (await runs.wait(run_id)).state

    @app.delete("/chats/{chat}")
    async def stop(chat: str) -> None:
        await runs.stop(key=chat)

    transport = httpx.ASGITransport(app)
    async with (
        channels,
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        await channels.ready()
        redis.pause()
        calls = ("POST /chats/a", "GET /chats/a", "DELETE /chats/a")
        for call in (*calls, "GET /answers/a", "GET /answers/a/end"):
            answered = await client.request(*call.split(), timeout=30)
            assert (answered.status_code, answered.headers["retry-after"]) == (503, "5"), call
        redis.go_on()


@asyncio_only
async def test_who_follows_a_run_of_channels_that_are_closed_is_told_to_come_back(
    redis: RedisServer,
) -> None:
    channels = Channels(redis.url)
    runs, app = channels.runs("answers"), FastAPI()

    @app.get("/answers/{run_id}", response_class=EventSourceResponse)
    async def follow(run_id: str) -> Subscription[Any]:
        return await runs.follow(run_id)

    @app.get("/chats/{chat}", response_class=EventSourceResponse)
    async def follow_chat(chat: str) -> Subscription[Any]:
        return await runs.follow(key=chat)

    async with channels:
        await channels.ready()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        for path in ("/answers/a", "/chats/a"):
            answered = await client.get(path)
            assert answered.status_code == 200, path
            assert "retry: " in answered.text, path
            assert answered.headers["cache-control"] == "no-cache", path
