"""What reaches the wire under any schedule at all: generated generators, clients and servers, by a
clock that jumps.

A generator awaits, yields in bursts, blocks, has timeouts of its own, raises, swallows a
cancellation, and awaits in its cleanup. A `send` stalls for ever or for a while, takes turns of the
loop, raises OSError as for a client that has gone, or anything else, or has its future cancelled. A
client leaves, the request is cancelled, the server shuts down. Whatever happens: whole events only,
a prefix of what was yielded, one `send` at a time, nothing after the end, and an end within the
times that the options promise.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asgi import Connection
from sserpent import EventSourceResponse
from sserpent._shutdown import streams as shutdown
from virtual_time import run_on_asyncio, run_on_trio

EXAMPLES = int(os.environ.get("SSERPENT_EXAMPLES", "300"))
# What is due at a time is done within this many seconds of it, by the clock of the tests.
SLACK = 1.5
# Longer than all steps and acts of a play; not much, because there is a ping for each 0.3 seconds.
LONG = 400

pauses = st.sampled_from([0, 0, 0.001, 0.2, 0.3, 3, 20])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("yield"), st.integers(1, 30)),
        st.tuples(st.just("large"), st.integers(1, 3)),
        st.tuples(st.just("sleep"), pauses),
        st.tuples(st.just("timeout"), st.sampled_from([0.001, 0.2])),
        st.tuples(st.just("timeout around yields"), st.sampled_from([0.001, 0.2, 5])),
        st.tuples(st.just("swallow"), st.sampled_from([0.2, 20])),
        st.tuples(st.just("block"), st.just(0.0021)),
    ),
    max_size=10,
)
endings = st.sampled_from(["return", "raise", "raise odd", "wait"])
cleanups = st.sampled_from([None, None, 0, 0.5, 1_000])
# What the k-th `send` does, for the first few; further ones are prompt.
sends = st.lists(
    st.sampled_from(
        ["prompt", "prompt", "turn", "slow", "stall", "gone", "fails", "cancelled", "long"]
    ),
    max_size=8,
)
acts = st.lists(
    st.tuples(st.sampled_from(["disconnect", "cancel", "shut down", "let go"]), pauses), max_size=4
)


class Odd(BaseException):
    """No Exception."""


class Options(NamedTuple):
    ping_interval: float | None
    open_delay: float | None
    send_timeout: float | None
    cleanup_timeout: float
    shutdown_grace: float


options = st.builds(
    Options,
    ping_interval=st.sampled_from([None, 0.3, 15]),
    open_delay=st.sampled_from([None, 0, 0.25]),
    send_timeout=st.sampled_from([None, 2]),
    cleanup_timeout=st.sampled_from([0, 4]),
    shutdown_grace=st.sampled_from([0, 0, 3]),
)


class Play:
    """One stream, what was done to it, and what came of it."""

    def __init__(self, steps: Any, ending: str, cleanup: Any, sends: Any, options: Options) -> None:
        self.steps = steps
        self.ending = ending
        self.cleanup = cleanup
        self.sends = list(sends)
        self.all_sends = list(sends)
        self.options = options
        self.yielded: list[str] = []
        self.log: list[str] = []
        self.connection = Connection()
        self.in_send = 0
        self.let_go = anyio.Event()
        self.error: BaseException | None = None
        # By when the stream must have ended, for each thing that ends it.
        self.must_end_by: dict[str, float] = {}
        self.ended_at: float | None = None
        self.done = anyio.Event()

    # The generator

    def item(self, size: int = 1) -> str:
        self.yielded.append(f"{len(self.yielded)}" + "x" * size)
        return self.yielded[-1]

    async def content(self) -> AsyncIterator[str]:
        self.log.append("started")
        try:
            for kind, amount in self.steps:
                if kind == "yield":
                    for _ in range(amount):
                        yield self.item()
                elif kind == "large":
                    for _ in range(amount):
                        yield self.item(70_000)
                elif kind == "sleep":
                    await anyio.sleep(amount)
                elif kind == "timeout":
                    with anyio.move_on_after(amount):
                        await anyio.sleep(3600)
                elif kind == "timeout around yields":
                    with anyio.move_on_after(amount):
                        for _ in range(4):
                            yield self.item(30_000)
                            await anyio.sleep(0.1)
                elif kind == "swallow":
                    try:
                        await anyio.sleep(amount)
                    except asyncio.CancelledError:
                        self.log.append("swallowed")
                else:
                    time.sleep(amount)  # noqa: ASYNC251 - what users' code does
                    yield self.item()
            if self.ending == "raise":
                raise LookupError("on purpose")
            if self.ending == "raise odd":
                raise Odd
            if self.ending == "wait":
                await anyio.sleep(LONG)
            self.log.append("came to its end")
        finally:
            if self.cleanup is not None:
                await anyio.sleep(self.cleanup)
            self.log.append("closed")

    # The server

    async def send(self, message: Any) -> None:
        assert self.in_send == 0, "send was called while a send was in progress"
        assert not self.connection.complete, "something was sent after the end"
        self.in_send += 1
        try:
            await self.fault(self.sends.pop(0) if self.sends else "prompt")
            self.connection.messages.append(message)
        finally:
            self.in_send -= 1

    async def fault(self, kind: str) -> None:
        if kind == "turn":
            await anyio.lowlevel.checkpoint()
        elif kind == "slow":
            await anyio.sleep(0.4)
        elif kind == "long":
            await anyio.sleep(1.9)
        elif kind == "stall":
            if self.options.send_timeout is not None and not self.let_go.is_set():
                self.ends_within(self.options.send_timeout + self.options.cleanup_timeout, "stall")
            await self.let_go.wait()
            self.must_end_by.pop("stall", None)
        elif kind == "gone":
            self.ends_within(self.options.cleanup_timeout)
            raise BrokenPipeError
        elif kind == "fails":
            self.ends_within(self.options.cleanup_timeout)
            raise KeyError("in a middleware")
        elif kind == "cancelled":
            await self.cancelled_future()

    async def cancelled_future(self) -> None:
        try:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        except RuntimeError:
            return  # Trio has none
        self.ends_within(0.1 + self.options.cleanup_timeout)
        asyncio.get_running_loop().call_later(0.1, future.cancel)
        await future

    def ends_within(self, seconds: float, why: str = "") -> None:
        by = anyio.current_time() + seconds + SLACK
        self.must_end_by[why] = min(by, self.must_end_by.get(why, by))

    # The whole

    async def run(self) -> None:
        response = EventSourceResponse(
            self.content(),
            on_disconnect=lambda: self.log.append("told"),
            **self.options._asdict(),
        )
        try:
            await response(self.connection.scope, self.connection.receive, self.send)
        except (LookupError, Odd) as error:
            self.error = error
        finally:
            self.ended_at = anyio.current_time()
            self.done.set()

    async def play(self, acts: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.run)
            for act, pause in acts:
                await anyio.sleep(pause)
                self.log.append(act)
                if act == "disconnect":
                    self.connection.disconnect()
                    self.ends_within(self.options.cleanup_timeout)
                elif act == "cancel":
                    self.ends_within(self.options.cleanup_timeout)
                    tasks.cancel_scope.cancel()
                    break
                elif act == "shut down":
                    shutdown._of_this_loop()._look(signalled=True)
                    self.ends_within(self.options.shutdown_grace + self.options.cleanup_timeout)
                else:
                    self.let_go.set()
            with anyio.move_on_after(10 * LONG):
                await self.done.wait()
            if not self.done.is_set():
                self.connection.disconnect()
                self.ends_within(self.options.cleanup_timeout)
            with anyio.fail_after(10 * LONG):
                await self.done.wait()

    def check(self, *, level_cancellation: bool) -> None:
        connection, log = self.connection, self.log
        received = [line.strip('"') for line in connection.data]
        assert received == self.yielded[: len(received)], "not a prefix of what was yielded"
        assert self.in_send == 0, "a send is still under way"
        assert log.count("told") <= 1
        assert log.count("closed") <= 1
        ends = [m for m in connection.messages if m.get("more_body") is False]
        assert ends in ([], connection.messages[-1:])
        assert self.ended_at is not None
        # A cleanup that swallows its cancellation on Trio is waited for, as its documentation says.
        swallows = level_cancellation and "swallowed" in log
        if not swallows:
            assert self.ended_at <= min(self.must_end_by.values(), default=inf), "it ended late"
        if connection.complete:
            assert received == self.yielded, "a stream that looks complete is not"
            assert self.error is None
            started = "started" in log
            assert not started or "came to its end" in log
        undisturbed = not {"disconnect", "cancel", "shut down"} & set(log) and "told" not in log
        faults = {"stall", "gone", "fails", "cancelled"} & set(self.all_sends)
        if undisturbed and not faults:
            assert received == self.yielded, "events were lost"
            if self.ending in ("raise", "raise odd"):
                assert self.error is not None
                assert not connection.complete
            elif self.ending == "return":
                assert connection.complete


@pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, ending=endings, cleanup=cleanups, sends=sends, acts=acts, options=options)
@example(
    steps=[],
    ending="return",
    cleanup=None,
    sends=["stall"],
    acts=[("disconnect", 0)],
    options=Options(None, None, None, 0, 0),
)
@pytest.mark.hypothesis
def test_whole_events_in_order_and_an_end_in_time_under_any_schedule(
    run: Callable[..., None],
    steps: Any,
    ending: str,
    cleanup: Any,
    sends: Any,
    acts: Any,
    options: Options,
) -> None:
    async def main() -> None:
        play = Play(steps, ending, cleanup, sends, options)
        await play.play(acts)
        play.check(level_cancellation="trio" in run.__name__)

    run(main)


def test_the_plays_can_fail() -> None:
    """Guards the test above: each of its checks is one that a broken engine does not pass."""
    play = Play([], "return", None, [], Options(None, None, None, 0, 0))
    play.ended_at = 0.0
    play.yielded = ["0x"]
    play.connection.messages = [{"type": "http.response.body", "body": b"", "more_body": False}]
    with pytest.raises(AssertionError, match="looks complete"):
        play.check(level_cancellation=False)
    play.connection.messages = [{"type": "http.response.body", "body": b'data: "1x"\n\n'}]
    with pytest.raises(AssertionError, match="prefix"):
        play.check(level_cancellation=False)
    play.connection.messages = []
    play.must_end_by, play.ended_at = {"": 1.0}, 2.0
    with pytest.raises(AssertionError, match="ended late"):
        play.check(level_cancellation=False)
