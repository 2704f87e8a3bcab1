"""Publishing where no event loop runs: what was accepted is sent before the process ends, or its
future has failed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redis_checks import MakeRedis, until
from redis_server import RedisServer
from servers import until as wait_until
from sserpent.channels import BrokerUnavailable, Channels

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks"),
]

BEGIN = """
import asyncio, atexit, gc, multiprocessing, os, signal, sys, threading, time
from sserpent.channels import BrokerError, BrokerUnavailable, Channels
channels = Channels(os.environ["REDIS_URL"], publish_timeout=float(os.environ["TIMEOUT"]))
rooms = channels.channel("rooms", history=1_000_000)
"""


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


def begin(server: RedisServer, script: str, timeout: float = 30) -> subprocess.Popen[str]:
    url = server.url.replace("127.0.0.1", "localhost")  # a name, to be resolved
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(script)],
        env={**os.environ, "REDIS_URL": url, "TIMEOUT": str(timeout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        printed, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it does not end: {process.communicate()}") from None
    assert process.returncode == code, said
    assert "Traceback" not in said or code, said
    return printed


def run(server: RedisServer, script: str, timeout: float = 30) -> str:
    return end(begin(server, script, timeout))


def stored(server: RedisServer) -> list[int]:
    """What was published, in the order of the history."""
    names = [name for name in server.names() if name.endswith(":rooms")]
    entries = server.ask("XRANGE", names[0], "-", "+") if names else []
    bodies = [fields["body"] for _, fields in entries if fields["body"]]
    return [int(body.removeprefix("data: ")) for body in bodies]


# A script


def test_a_script_that_ends_at_once_has_published_all(server: RedisServer) -> None:
    run(server, "for number in range(300): rooms.publish_soon(number)")
    assert stored(server) == list(range(300))


def test_a_script_gets_the_id_and_errors(server: RedisServer) -> None:
    printed = run(
        server,
        """
        print(rooms.publish_soon(1).result())
        thread = threading.Thread(target=lambda: print(rooms.publish_soon(2).result()))
        thread.start()
        thread.join()
        try:
            rooms.publish_soon(object())
        except Exception as error:
            print(type(error).__name__)
        """,
    )
    first, second, _ = printed.splitlines()
    assert [each.split("-")[1] for each in (first, second)] == ["1", "2"]
    assert stored(server) == [1, 2]


def test_a_script_that_uses_an_event_loop_too(server: RedisServer) -> None:
    run(
        server,
        """
        async def publish(number):
            await rooms.publish(number)
        rooms.publish_soon(0).result()
        for number in 1, 2:
            asyncio.run(publish(number))
        async def enter():
            async with channels:
                await rooms.publish(3)
                assert channels._broker._session.loop is asyncio.get_running_loop()
        asyncio.run(enter())
        """,
    )
    assert stored(server) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(3)",
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        "raise ValueError",
        "signal.signal(2, lambda *_: sys.exit(3)); os.kill(os.getpid(), 2); time.sleep(60)",
    ],
)
def test_however_a_script_ends(server: RedisServer, ending: str) -> None:
    process = begin(server, f"for number in range(50): rooms.publish_soon(number)\n{ending}")
    process.communicate(timeout=60)
    assert process.returncode
    assert stored(server) == list(range(50))


def test_functions_of_atexit_and_threads_that_go_on_publish_too(server: RedisServer) -> None:
    run(
        server,
        """
        def go_on():
            threading.main_thread().join()
            for number in range(5):
                time.sleep(0.1)
                rooms.publish_soon(number)
            time.sleep(0.5)
            rooms.publish_soon(5)
        rooms.publish_soon(-1).result()
        threading.Thread(target=go_on).start()
        atexit.register(lambda: rooms.publish_soon(6))
        """,
    )
    assert stored(server) == [-1, *range(7)]


def test_the_task_of_the_page_publishes(server: RedisServer) -> None:
    """Celery is a stub: its tasks are functions."""
    page = Path(__file__).parents[2] / "docs/channels-redis.md"
    (task,) = re.findall(r"```.+\n(from celery.+?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    code = f"""
import types
celery = sys.modules["celery"] = types.ModuleType("celery")
celery.Celery = lambda **_: types.SimpleNamespace(task=lambda function: function)
sys.path.insert(0, {str(page.parents[1] / "examples")!r})
build_report = print
{task}
print(report("ada"))
"""
    name, event_id = run(server, code).split()
    assert name == "ada"
    assert event_id.split("-")[1] == "1"


# A Redis that is away


def seconds_at_the_end(printed: str) -> float:
    return time.time() - float(printed.splitlines()[-1])


@pytest.mark.parametrize("fault", [RedisServer.kill, RedisServer.pause])
def test_a_script_ends_though_redis_is_away(
    server: RedisServer, fault: Callable[[RedisServer], None]
) -> None:
    fault(server)
    printed = run(
        server,
        """
        future = rooms.publish_soon(1)
        try:
            future.result()
        except BrokerUnavailable as error:
            print(error)
        last = rooms.publish_soon(2)
        last.add_done_callback(lambda last: print(type(last.exception()).__name__, flush=True))
        atexit.register(lambda: print(time.time(), flush=True))
        """,
        timeout=1,
    )
    assert seconds_at_the_end(printed) < 20
    error, *kinds, _ = printed.splitlines()
    assert f"localhost:{server.port} could not be reached within 1 s" in error
    assert kinds in (["BrokerUnavailable"], ["PublishUncertain"])


def test_a_script_waits_for_a_redis_that_comes_back(server: RedisServer) -> None:
    server.pause()
    process = begin(server, "rooms.publish_soon(1); print(1, flush=True)", timeout=60)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    server.go_on()
    end(process)
    assert stored(server) == [1]


def test_an_event_loop_that_ends_has_the_future_fail(server: RedisServer) -> None:
    server.pause()
    printed = run(
        server,
        """
        async def publish():
            return rooms.publish_soon(1)
        async def publish_and_wait():
            future = rooms.publish_soon(1)
            await asyncio.sleep(0.5)
            return future
        for each in publish, publish_and_wait:
            try:
                asyncio.run(each()).result(20)
            except BrokerError as error:
                print(error)
        """,
    )
    assert printed.count("event loop of these channels has ended") == 2


# Processes that were forked


def test_a_child_of_multiprocessing_publishes(server: RedisServer) -> None:
    run(
        server,
        """
        def publish(number):
            rooms.publish_soon(number)
        rooms.publish_soon(0).result()
        context = multiprocessing.get_context("fork")
        for number in 1, 2:
            child = context.Process(target=publish, args=(number,))
            child.start()
            child.join()
            assert not child.exitcode
        rooms.publish_soon(3).result()
        """,
    )
    assert stored(server) == [0, 1, 2, 3]


@pytest.mark.parametrize("parent", ["pass", "rooms.publish_soon(-1).result()"])
def test_workers_that_were_forked_publish(server: RedisServer, parent: str) -> None:
    """As the sync workers of gunicorn: each is ended by a signal."""
    run(
        server,
        f"""
        {parent}
        workers = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                def stop(*_):
                    sys.exit(0)
                signal.signal(signal.SIGTERM, stop)
                rooms.publish_soon(10 * number).result()
                rooms.publish_soon(10 * number + 1)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            workers.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in workers]
        assert codes == [0, 0, 0], codes
        rooms.publish_soon(100).result()
        """,
    )
    assert sorted(each for each in stored(server) if each >= 0) == [0, 1, 10, 11, 20, 21, 100]


def test_a_fork_while_the_application_runs_leaves_its_connections(server: RedisServer) -> None:
    run(
        server,
        """
        async def main():
            async with channels, rooms.listen() as events:
                await rooms.publish(0)
                pid = os.fork()
                if not pid:
                    gc.collect()
                    rooms.publish_soon(1).result()
                    gc.collect()
                    os._exit(0)
                while not os.waitpid(pid, os.WNOHANG)[0]:
                    await asyncio.sleep(0.05)
                await rooms.publish(2)
                found = [await anext(events) for _ in range(3)]
                assert [each.data for each in found] == [0, 1, 2]
        asyncio.run(main())
        """,
    )
    assert stored(server) == [0, 1, 2]


def test_a_fork_while_other_threads_publish(server: RedisServer) -> None:
    run(
        server,
        """
        going = True
        def publish():
            while going:
                rooms.publish_soon(0).result()
        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, 21):
            pid = os.fork()
            if not pid:
                rooms.publish_soon(number).result(20)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        going = False
        """,
    )
    assert sorted(each for each in stored(server) if each) == list(range(1, 21))


# The application that comes later


def test_an_application_takes_over(server: RedisServer) -> None:
    channels = Channels(server.url)
    rooms = channels.channel("rooms")
    rooms.publish_soon(1).result(20)
    broker: Any = channels._broker
    assert broker._session.loop is broker._background.loop

    async def check() -> None:
        last = rooms.publish_soon(2)
        async with channels, rooms.listen(start="earliest") as events:
            assert broker._session.loop is asyncio.get_running_loop()
            await until(last.done)
            published = [await anext(events) for _ in range(2)]
            assert [each.data for each in published] == [1, 2]
            await rooms.publish(3)
            assert (await anext(events)).data == 3

    asyncio.run(check())
    with pytest.raises(RuntimeError, match="closed"):
        rooms.publish_soon(4).result(5)
    wait_until(lambda: not server.clients("pubsub"))


def test_threads_of_one_process_share_the_background(server: RedisServer) -> None:
    rooms = [Channels(server.url).channel("rooms") for _ in range(3)]
    for each in rooms:
        each.publish_soon(1).result(20)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("sserpent") == names.count("sserpent-end") == 1


def test_nobody_is_there_at_all() -> None:
    rooms = Channels("redis://127.0.0.1:1", publish_timeout=0.2).channel("rooms")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 could not be reached"):
        rooms.publish_soon(1).result(20)


def test_a_signal_that_ends_it_at_once_is_obeyed(server: RedisServer) -> None:
    server.pause()
    process = begin(server, "rooms.publish_soon(1); print(1, flush=True)", timeout=60)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    process.communicate()
