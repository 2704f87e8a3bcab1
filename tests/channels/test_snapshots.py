"""N1 to N10: the state, what changes then, and the state again wherever something is missing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, TypeAdapter

from channel_clients import Client, connected, offset_of
from channel_places import Place, heard, turns, until
from event_loops import asyncio_only
from pages import DOCS, run_blocks
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._runtime.loops import current_time
from sserpent.channels import BrokerUnavailable, Channels, LastEventID, Subscription
from sserpent.channels.fanout import snapshots

pytestmark = pytest.mark.anyio


@pytest.fixture
def share_no_longer(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Moves the clock past the time for which a snapshot is given to others."""
    over = snapshots._SHARED_FOR + 0.1
    return partial(monkeypatch.setattr, snapshots, "current_time", lambda: current_time() + over)


class Board:
    """A state that is changed by what is published: a map, and how many changes there were."""

    def __init__(self, channel: Any, key: str | None = None) -> None:
        self.channel = channel
        self.key = key
        self.calls = 0
        self.state: dict[str, int] = {}
        self.last: str | None = None
        self.is_open = anyio.Event()
        self.is_open.set()

    async def set(self, name: str, value: int) -> str:
        self.state[name] = value
        return str(await self.channel.publish({name: value}, key=self.key))

    def hold(self) -> None:
        """Has calls wait for `let_go`."""
        self.is_open = anyio.Event()

    def let_go(self) -> None:
        self.is_open.set()

    async def snapshot(self, *key: str) -> dict[str, int]:
        self.calls += 1
        assert key == (() if self.key is None else (self.key,))
        await self.is_open.wait()
        return dict(self.state)


def shown(client: Client) -> Any:
    """The state that a client has: each snapshot replaces it, each event changes it."""
    state: Any = None
    for event in client.seen:
        if event.type == "snapshot":
            state = event.data
        else:
            assert event.type == "message", event
            state.update(event.data)
    return state


def types(client: Client) -> list[str]:
    return [each.type for each in client.seen]


async def has_seen(client: Client, *expected: str) -> None:
    await client.until(lambda: len(client.seen) >= len(expected))
    assert types(client) == list(expected)


# N1


async def test_n1_a_new_client_gets_the_state_and_its_position_and_then_what_is_newer(
    place: Place,
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        before = await board.set("a", 1)
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            assert client.seen[0].data == {"a": 1}
            assert client.seen[0].id == before
            # No block with an id alone before it.
            assert client.body.count(b"id: ") == 1
            await board.set("a", 2)
            await has_seen(client, "snapshot", "message")


async def test_n1_a_key_without_events_has_a_position_too(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("boards", keyed=True), "b")
        async with connected(board.channel.subscribe(key="b", snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            assert client.seen[0].id == await board.channel.position(key="b")
            assert offset_of(client.seen[0].id) == 0
            await board.set("a", 1)
            await has_seen(client, "snapshot", "message")
        async with connected(
            board.channel.subscribe(key="b", after=client.seen[0].id, snapshot=board.snapshot)
        ) as client:
            await has_seen(client, "message")


async def test_n1_a_client_that_comes_back_gets_what_is_newer_and_no_snapshot(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        after = await board.set("a", 1)
        await board.set("a", 2)
        subscription = board.channel.subscribe(after=after, snapshot=board.snapshot)
        async with connected(subscription) as client:
            await board.set("a", 3)
            await has_seen(client, "message", "message")
            assert client.data == [{"a": 2}, {"a": 3}]
        async with connected(
            board.channel.subscribe(after=client.last_id, snapshot=board.snapshot)
        ) as client:
            await board.set("a", 4)
            await has_seen(client, "message")
        assert board.calls == 0


# N2


async def test_n2_an_event_is_sent_as_it_is(place: Place) -> None:
    async with place.channels() as channels:
        tasks = channels.channel("tasks")
        event = ServerSentEvent(data={"id": 7}, event="task", retry=2_000, comment="first")
        async with connected(tasks.subscribe(snapshot=lambda: event)) as client:
            await has_seen(client, "task")
            assert client.lines[:2] == [f"id: {await tasks.position()}", ": first"]
            assert "retry: 2000" in client.lines
        nameless = ServerSentEvent(raw_data="[1]")
        async with connected(tasks.subscribe(snapshot=lambda: nameless)) as client:
            await has_seen(client, "message")
            assert client.seen[0].data == [1]


async def test_n2_the_stream_goes_on_after_the_event_that_the_state_has(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        ids = [await news.publish(n) for n in range(5)]

        async def state() -> Any:
            return ServerSentEvent(data=[0, 1], event="snapshot", id=ids[1])

        async with connected(news.subscribe(snapshot=state)) as client:
            await client.has([0, 1], 2, 3, 4)
            assert [each.id for each in client.seen] == ids[1:]
            ids.append(await news.publish(5))
            await client.has([0, 1], 2, 3, 4, 5)


async def test_n2_an_id_that_is_none_is_an_error_that_names_the_argument(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        for wrong in ("0-0-0", "mine"):
            event = ServerSentEvent(data=1, id=wrong)
            with pytest.RaisesGroup(
                pytest.RaisesExc(ValueError, match="'id' of what 'snapshot' of channel 'news'"),
                allow_unwrapped=True,
                flatten_subgroups=True,
            ):
                await Client().run(news.subscribe(snapshot=lambda event=event: event))


async def test_n2_a_whole_state_can_be_published_as_a_snapshot(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            await board.channel.publish({"z": 26}, event="snapshot")
            await has_seen(client, "snapshot", "snapshot")
            assert shown(client) == {"z": 26}


async def test_n2_the_first_event_of_a_task_is_the_task_as_a2a_wants_it(place: Place) -> None:
    """Plain JSON, by the names of A2A 1.0: a stream response is a task, or an update of one."""
    async with place.channels() as channels:
        updates = channels.channel("tasks", keyed=True, history=5)
        task: dict[str, Any] = {"id": "t1", "contextId": "c1", "status": {}}
        last = await updates.position(key="t1")

        async def set_state(state: str) -> None:
            nonlocal last
            status = {"state": f"TASK_STATE_{state}"}
            update = {"taskId": "t1", "contextId": "c1", "status": status}
            last = await updates.publish({"statusUpdate": update}, key="t1")
            task["status"] = status

        async def current(task_id: str) -> ServerSentEvent:
            assert task_id == task["id"]
            return ServerSentEvent(data={"task": task}, id=last)

        await set_state("WORKING")
        subscription = updates.subscribe(key="t1", snapshot=current)
        async with connected(subscription) as client:
            await has_seen(client, "message")
            await set_state("COMPLETED")
            await has_seen(client, "message", "message")
        first, second = client.data
        assert first["task"]["status"] == {"state": "TASK_STATE_WORKING"}
        assert second["statusUpdate"]["status"] == {"state": "TASK_STATE_COMPLETED"}
        # It comes back for what is kept no longer, and its first event is the task again.
        for _ in range(150):
            await set_state("WORKING")
        again = updates.subscribe(key="t1", after=client.last_id, snapshot=current)
        async with connected(again) as client:
            await has_seen(client, "message")
            assert client.data == [{"task": task}]


async def test_n2_the_state_of_an_agent_is_a_state_snapshot_of_ag_ui(place: Place) -> None:
    core = pytest.importorskip("ag_ui.core")
    event_of: Any = TypeAdapter(core.Event)

    def sent(event: Any, event_id: str | None = None) -> ServerSentEvent:
        text = event.model_dump_json(by_alias=True, exclude_none=True)
        return ServerSentEvent(raw_data=text, id=event_id)

    async with place.channels() as channels:
        agents = channels.channel("agents")
        state = {"steps": 0}
        last = await agents.position()

        async def step() -> None:
            nonlocal last
            operation = {"op": "replace", "path": "/steps", "value": state["steps"] + 1}
            last = await agents.publish(sent(core.StateDeltaEvent(delta=[operation])))
            state["steps"] += 1

        async def snapshot() -> ServerSentEvent:
            return sent(core.StateSnapshotEvent(snapshot=state), last)

        await step()
        async with connected(agents.subscribe(snapshot=snapshot)) as client:
            await has_seen(client, "message")
            await step()
            await has_seen(client, "message", "message")
        first, second = (event_of.validate_python(each) for each in client.data)
        assert (first.type, first.snapshot) == ("STATE_SNAPSHOT", {"steps": 1})
        assert (second.type, second.delta[0].value) == ("STATE_DELTA", 2)


# N3


@pytest.mark.parametrize("reason", ["trimmed", "epoch", "unknown", "ahead", "diverged"])
async def test_n3_who_comes_back_with_an_id_that_does_not_hold_gets_a_snapshot(
    place: Place, reason: str
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=0))
        first = await board.set("a", 1)
        last = await board.set("a", 2)
        epoch, offset, tag = last.split("-")
        after = {
            "trimmed": first,
            "epoch": "feed-1-1",
            "unknown": "garbage",
            "ahead": f"{epoch}-9{offset}-{tag}",
            "diverged": f"{epoch}-{offset}-{int(tag) ^ 3}",
        }[reason]
        async with connected(
            board.channel.subscribe(after=after, snapshot=board.snapshot)
        ) as client:
            await has_seen(client, "snapshot")
            assert client.seen[0].id == last
            await board.set("b", 1)
            await has_seen(client, "snapshot", "message")
            assert shown(client) == board.state


@pytest.mark.parametrize("overflow", ["gap", "latest"])
async def test_n3_a_slow_client_gets_a_snapshot_in_place_of_what_it_has_missed(
    place: Place, overflow: Any
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=5, overflow=overflow))
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            client.stall()
            await board.set("a", 0)
            await client.until(lambda: client.stalled)
            for n in range(20):
                await board.set("a", n)
                await heard(channels)
            client.unstall()
            await has_seen(client, "snapshot", "message", "snapshot")
            await board.set("b", 1)
            await client.until(lambda: shown(client) == board.state)
            assert types(client).count("snapshot") == 2


async def test_n3_disconnect_still_ends_the_stream(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=5, overflow="disconnect"))
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            client.stall()
            await board.set("a", 0)
            await client.until(lambda: client.stalled)
            for n in range(20):
                await board.set("a", n)
                await heard(channels)
            client.unstall()
            await client.until(lambda: client.complete)
            assert types(client) == ["snapshot", "message"]
        async with connected(
            board.channel.subscribe(after=client.last_id, snapshot=board.snapshot)
        ) as client:
            await has_seen(client, "snapshot")
            assert shown(client) == board.state


async def test_n3_a_history_that_begins_anew_gives_a_snapshot_in_place_of_reset(
    place: Place,
    share_no_longer: Callable[[], None],
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        await board.set("a", 1)
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            share_no_longer()
            await place.forget(board.channel)
            board.state = {}
            await board.set("b", 2)
            await client.until(lambda: shown(client) == {"b": 2}, 40)
            assert types(client).count("snapshot") == 2


async def test_n3_of_several_channels_only_the_one_concerned_gets_a_snapshot(
    place: Place, share_no_longer: Callable[[], None]
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=0))
        news = channels.channel("news")
        selections = board.channel.on(snapshot=board.snapshot), news.on()
        async with connected(channels.subscribe(*selections)) as client:
            await has_seen(client, "snapshot")
            await news.publish(1)
            await has_seen(client, "snapshot", "message")
        for n in range(3):
            await board.set("a", n)
        await news.publish(2)
        share_no_longer()
        async with connected(channels.subscribe(*selections, after=client.last_id)) as client:
            await client.until(lambda: len(client.seen) >= 2)
            await turns()
            assert sorted(types(client)) == ["message", "snapshot"]
            assert client.data == [{"a": 2}, 2] or client.data == [2, {"a": 2}]


async def test_n3_a_client_that_is_cut_between_two_snapshots_gets_the_second(place: Place) -> None:
    async with place.channels() as channels:
        quick = Board(channels.channel("quick"))
        slow = Board(channels.channel("slow"))
        quick.state, slow.state = {"q": 1}, {"s": 1}
        slow.hold()
        selections = (
            quick.channel.on(snapshot=quick.snapshot),
            slow.channel.on(snapshot=slow.snapshot),
        )
        async with connected(channels.subscribe(*selections)) as client:
            await has_seen(client, "snapshot")
            assert client.data == [{"q": 1}]
            # Its id is that of the one channel alone.
            assert "~" not in client.last_id
        slow.let_go()
        async with connected(channels.subscribe(*selections, after=client.last_id)) as client:
            await has_seen(client, "snapshot")
            assert client.data == [{"s": 1}]
            assert "~" in client.last_id


async def test_n3_a_snapshot_that_no_longer_counts_is_not_sent(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=2))
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            client.stall()
            await board.set("a", 0)
            await client.until(lambda: client.stalled)
            await place.forget(board.channel)
            await board.set("b", 0)
            # The snapshot waits for the client, and the history goes on.
            with anyio.fail_after(40):
                while board.calls < 2:
                    await anyio.sleep(0.01)
            for n in range(10):
                await board.set("b", n)
                await heard(channels)
            client.unstall()
            await client.until(lambda: shown(client).get("b") == 9, 40)
            assert types(client) == ["snapshot", "message", "snapshot"]


async def test_n3_the_id_does_not_name_a_channel_whose_snapshot_was_not_sent(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=2))
        news = channels.channel("news")
        stream = channels.subscribe(board.channel.on(snapshot=board.snapshot), news.on())
        async with connected(stream) as client:
            await has_seen(client, "snapshot")
            assert "~" in client.last_id
            await overflow(channels, board, client)
            await client.until(lambda: board.calls == 2)
            # The second snapshot waits for a client that does not read, until it is too old.
            client.stall()
            await news.publish({})
            await client.until(lambda: client.stalled)
            board.let_go()
            await heard(channels)
            board.hold()
            for n in range(10):
                await board.set("a", n)
                await heard(channels)
            client.unstall()
            await client.until(lambda: board.calls == 3)
            await news.publish({"last": 1})
            await client.until(lambda: client.data[-1] == {"last": 1})
            assert types(client).count("snapshot") == 1
            assert "~" not in client.last_id
            board.let_go()
            await client.until(lambda: types(client).count("snapshot") == 2)
            assert "~" in client.last_id


async def overflow(channels: Channels, board: Board, client: Client) -> None:
    """Has a client fall behind, and ask for the state again, which waits."""
    client.stall()
    await board.set("a", 0)
    await client.until(lambda: client.stalled)
    board.hold()
    for n in range(10):
        await board.set("a", n)
        await heard(channels)
    client.unstall()


# N4


async def test_n4_what_is_published_during_the_call_follows_the_snapshot(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        before = await board.set("a", 1)
        board.hold()
        client = Client()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, board.channel.subscribe(snapshot=board.snapshot))
            await until(lambda: board.calls)
            await board.set("a", 2)
            await board.set("b", 3)
            board.let_go()
            await has_seen(client, "snapshot", "message", "message")
            assert client.seen[0].id == before
            assert shown(client) == {"a": 2, "b": 3}
            client.disconnect()


@pytest.mark.parametrize("exact", [False, True])
async def test_n4_whoever_comes_while_the_state_changes_ends_with_that_state(
    place: Place, exact: bool
) -> None:
    """A map needs no id; a counter, to which nothing may be added twice, does."""
    async with place.channels() as channels:
        channel = channels.channel("state", history=20)
        state: dict[str, int] = {}
        last = await channel.position()

        async def snapshot() -> Any:
            taken, at = dict(state), last
            await anyio.sleep(0.005)
            return ServerSentEvent(data=taken, event="snapshot", id=at if exact else None)

        async def write(count: int) -> None:
            nonlocal last
            for n in range(count):
                name = f"k{n % 7}"
                if exact:
                    last = await channel.publish([name, 1])
                    state[name] = state.get(name, 0) + 1
                else:
                    state[name] = n
                    await channel.publish([name, n])
                await anyio.sleep(0.001)

        clients = [Client() for _ in range(40)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, 300)
            for client in clients:
                subscription = channel.subscribe(snapshot=lambda: snapshot())
                tasks.start_soon(client.run, subscription)
                await anyio.sleep(0.005)
            for client in clients:
                await client.until(lambda client=client: applied(client, exact) == state, 40)
                client.disconnect()


def applied(client: Client, adds: bool) -> Any:
    state: Any = None
    for event in client.seen:
        if event.type == "snapshot":
            state = event.data
        else:
            name, value = event.data
            state[name] = state.get(name, 0) + value if adds else value
    return state


# N5


async def test_n5_what_comes_during_a_call_is_kept_whatever_history_says(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=0))
        board.hold()
        client = Client()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, board.channel.subscribe(snapshot=board.snapshot))
            await until(lambda: board.calls)
            for n in range(50):
                await board.set("a", n)
                await turns(3)
            board.let_go()
            await client.until(lambda: len(client.seen) == 51)
            assert board.calls == 1
            client.disconnect()
        # And no longer.
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as client:
            await has_seen(client, "snapshot")
            await board.set("b", 1)
            await has_seen(client, "snapshot", "message")
            await turns(50)
            for hub in channels._hubs._by_loop.values():
                for tail in hub._tails.values():
                    assert len(tail.ring) <= 1
                    assert not tail._held


async def test_n5_beyond_history_bytes_the_function_is_asked_again(place: Place) -> None:
    async with place.channels() as channels:
        channel = channels.channel("board", history_bytes=1_000)
        calls = 0

        async def snapshot() -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                for _ in range(10):
                    await channel.publish("x" * 500)
                    await heard(channels)
            return calls

        async with connected(channel.subscribe(snapshot=snapshot)) as client:
            await has_seen(client, "snapshot")
            assert client.data == [2]


async def test_n5_an_id_that_is_too_old_is_asked_for_three_times_again(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news", history=1)
        ids = [await news.publish(n) for n in range(5)]
        calls = 0

        async def snapshot() -> Any:
            nonlocal calls
            calls += 1
            return ServerSentEvent(data=0, id=ids[0])

        app = FastAPI()

        @app.get("/", response_class=EventSourceResponse)
        async def read() -> Subscription[Any]:
            return news.subscribe(snapshot=snapshot)

        client = Client()
        with pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="'snapshot' of channel 'news' is too old"),
            allow_unwrapped=True,
            flatten_subgroups=True,
        ):
            await client.run(app)
        assert client.status == 500
        assert calls == 4


async def test_n5_an_id_of_another_epoch_stands_for_the_beginning_of_this_one(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")

        async def snapshot() -> Any:
            return ServerSentEvent(data="old", id="feed-7-7")

        await news.publish(1)
        async with connected(news.subscribe(snapshot=snapshot)) as client:
            await client.has("old", 1)
            assert offset_of(client.seen[0].id) == 0


async def test_n5_an_id_that_the_history_has_lost_stands_for_the_newest_position(
    place: Place,
) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        last = await news.publish(1)
        epoch = last.split("-")[0]

        async def snapshot() -> Any:
            return ServerSentEvent(data="ahead", id=f"{epoch}-9-9")

        async with connected(news.subscribe(snapshot=snapshot)) as client:
            await client.has("ahead")
            assert client.last_id == last
            await news.publish(2)
            await client.has("ahead", 2)


async def test_n5_nothing_is_kept_for_a_call_that_goes_on_though_it_is_cancelled(
    place: Place,
) -> None:
    async with place.channels() as channels:
        news = channels.channel("news", history=2)
        last = await news.publish(0)
        called = anyio.Event()

        async def stubborn() -> ServerSentEvent:
            called.set()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                returned.set()
            return ServerSentEvent(data=1, event="snapshot", id=last)

        returned = anyio.Event()
        async with connected(news.subscribe()) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Client().run, news.subscribe(snapshot=stubborn))
                await called.wait()
                tasks.cancel_scope.cancel()
            await returned.wait()
            for n in range(20):
                await news.publish(n)
            await client.until(lambda: len(client.data) == 20)
            await turns()
            [tail] = channels._hubs.hub()._tails.values()
            assert tail._held == {}
            await until(lambda: len(tail.ring) <= 2)


# N6


async def test_n6_one_call_is_shared_by_all_who_come_while_it_runs_and_a_second_after(
    place: Place,
    share_no_longer: Callable[[], None],
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        board.hold()
        clients = [Client() for _ in range(20)]
        async with anyio.create_task_group() as tasks:
            for client in clients:
                subscription = board.channel.subscribe(snapshot=board.snapshot)
                tasks.start_soon(client.run, subscription)
            await until(lambda: board.calls)
            await turns()
            board.let_go()
            for client in clients:
                await has_seen(client, "snapshot")
            await board.set("a", 1)
            async with connected(board.channel.subscribe(snapshot=board.snapshot)) as late:
                await has_seen(late, "snapshot", "message")
            assert board.calls == 1
            share_no_longer()
            async with connected(board.channel.subscribe(snapshot=board.snapshot)) as later:
                await has_seen(later, "snapshot")
            assert board.calls == 2
            for client in clients:
                client.disconnect()


async def test_n6_a_function_made_in_the_route_is_called_for_its_client_alone(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        for user in ("ann", "bob"):
            async with connected(news.subscribe(snapshot=lambda user=user: user)) as client:
                await client.has(user)


async def test_n6_each_key_has_its_own_and_is_given_as_it_came(place: Place) -> None:
    async with place.channels() as channels:
        boards = channels.channel("boards", keyed=True)

        def state(key: Any) -> Any:
            return [type(key).__name__, key]

        for key in (7, "7", "b"):
            async with connected(boards.subscribe(key=key, snapshot=state)) as client:
                await client.has([type(key).__name__, key])


class Unhashable:
    """Equal to any other, and without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.calls = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


async def test_n6_functions_that_are_equal_share_a_call_even_without_a_hash(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        one, two = Unhashable(), Unhashable()
        for function in (one, two):
            async with connected(news.subscribe(snapshot=function)) as client:
                await client.has(1)
        assert two.calls == 0


async def test_n6_the_last_who_leaves_cancels_the_call(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        cancelled = anyio.Event()
        calls = 0

        async def forever() -> None:
            nonlocal calls
            calls += 1
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        one, two = Client(), Client()
        async with anyio.create_task_group() as tasks:
            for client in (one, two):
                tasks.start_soon(client.run, news.subscribe(snapshot=forever))
            await until(lambda: calls)
            await turns()
            one.disconnect()
            await anyio.sleep(0.05)
            assert not cancelled.is_set()
            two.disconnect()
            with anyio.fail_after(10):
                await cancelled.wait()
        assert calls == 1


async def test_n6_a_failure_is_told_to_all_who_wait_and_is_not_kept(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))

        async def fails() -> Any:
            await board.snapshot()
            if board.calls == 1:
                raise HTTPException(418)
            return board.calls

        board.hold()
        app = of(lambda after: board.channel.subscribe(after=after, snapshot=fails))
        clients = [Client() for _ in range(5)]
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(client.run, app)
            await until(lambda: board.calls)
            await turns(50)
            board.let_go()
        assert [client.status for client in clients] == [418] * 5
        async with connected(board.channel.subscribe(snapshot=fails)) as client:
            await client.has(2)


@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.parametrize("over", [0, 1])
async def test_n6_a_function_that_would_wait_for_itself_fails_at_once(
    place: Place, over: int, comes_back: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own channel's, or by another function that waits for it."""
    began = time.monotonic()
    async with place.channels() as channels:
        boards = [channels.channel(f"board-{number}", history=1) for number in range(1 + over)]
        after = [(await each.publish_many([1, 2, 3]))[0] if comes_back else None for each in boards]

        async def state(number: int) -> Any:
            at = (number + 1) % len(boards)
            async with boards[at].listen(after=after[at], snapshot=functions[at]) as events:
                return (await events.__anext__()).data

        functions = [partial(state, number) for number in range(len(boards))]
        with pytest.raises(RuntimeError, match="'snapshot' of channel 'board-0' would wait for it"):
            async with boards[0].listen(snapshot=functions[0]) as events:
                await events.__anext__()
        # A function may listen to what does not wait for it.
        async with boards[0].listen(snapshot=lambda: 1) as events:
            assert (await events.__anext__()).data == 1
    assert time.monotonic() - began < snapshots.CALL_TIMEOUT / 2


async def test_n6_a_function_may_publish_while_others_fall_behind(place: Place) -> None:
    """What is sent in its turn is none of what it waits for."""
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=2))

        async def publishing() -> dict[str, int]:
            for number in range(5):
                await board.set("a", number)
            return await board.snapshot()

        async with connected(board.channel.subscribe(snapshot=publishing)) as client:
            await client.until(lambda: shown(client) == {"a": 4})
            async with connected(board.channel.subscribe(snapshot=publishing)) as second:
                await second.until(lambda: shown(second) == {"a": 4})
                assert second.status == 200


async def test_n6_a_plain_function_is_called_in_the_event_loop(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        async with connected(news.subscribe(snapshot=threading.get_ident)) as client:
            await client.has(threading.get_ident())


def begins_at_once(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    """A task factory like `asyncio.eager_task_factory` of Python 3.12, for what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        future = loop.create_future()
        future.set_result(returned.value)
        return future
    raise AssertionError("it waits")


@asyncio_only
async def test_n6_a_task_factory_that_begins_at_once_changes_nothing() -> None:
    news = Channels().channel("news")

    async def state() -> str:
        return "state"

    def fail() -> str:
        raise HTTPException(418)

    loop = asyncio.get_running_loop()
    for function in (state, fail):
        async with news.listen():  # another, so that the hub stays
            subscription, client = news.subscribe(snapshot=function), Client()
            run = loop.create_task(client.run(subscription))
            loop.set_task_factory(begins_at_once)
            try:
                for _ in range(20):
                    await asyncio.sleep(0)
            finally:
                loop.set_task_factory(None)
            if function is state:
                await client.has("state")
                client.disconnect()
                await run
            else:
                with pytest.raises(HTTPException):
                    await asyncio.wait_for(run, 10)


# N7


def of(subscribe: Callable[[str | None], Any]) -> FastAPI:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def read(last_event_id: LastEventID = None) -> Subscription[Any]:
        subscription: Subscription[Any] = subscribe(last_event_id)
        return subscription

    return app


def raises(error: Exception) -> Callable[[], Awaitable[Any]]:
    async def function() -> Any:
        await anyio.lowlevel.checkpoint()
        raise error

    return function


def coming_back(after: str) -> Client:
    return Client(headers=[(b"last-event-id", after.encode())])


async def test_n7_an_http_exception_at_the_start_is_the_answer(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        app = of(lambda after: news.subscribe(after=after, snapshot=raises(HTTPException(404))))
        for client in (Client(), coming_back("feed-1-1")):
            await client.run(app)
            assert client.status == 404


async def test_n7_anything_else_at_the_start_is_a_500_but_not_for_who_comes_back(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        app = of(lambda after: news.subscribe(after=after, snapshot=raises(KeyError("x"))))
        client = Client()
        with pytest.RaisesGroup(KeyError, allow_unwrapped=True, flatten_subgroups=True):
            await client.run(app)
        assert client.status == 500
        client = coming_back("feed-1-1")
        await client.run(app)
        assert client.status == 200
        assert client.complete
        assert client.seen == []
        assert 5_000 <= int(client.lines[-2].removeprefix("retry: ")) <= 15_000
        [record] = [each for each in caplog.records if "'snapshot'" in each.getMessage()]
        assert record.exc_info is not None
        assert record.exc_info[0] is KeyError


@pytest.mark.virtual_time
async def test_n7_a_function_that_takes_longer_than_30_s_fails() -> None:
    news = Channels().channel("news")
    client = Client()
    app = of(lambda after: news.subscribe(snapshot=anyio.sleep_forever))
    with pytest.RaisesGroup(
        pytest.RaisesExc(TimeoutError, match=r"'snapshot' of channel 'news' .* 30 s"),
        allow_unwrapped=True,
        flatten_subgroups=True,
    ):
        await client.run(app)
    assert client.status == 500


@pytest.mark.parametrize("error", [KeyError("x"), HTTPException(404)])
async def test_n7_a_failure_in_the_middle_ends_the_stream_where_the_client_stands(
    place: Place,
    share_no_longer: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=1))
        fails = False

        async def snapshot() -> Any:
            if fails:
                raise error
            return await board.snapshot()

        async with connected(board.channel.subscribe(snapshot=snapshot)) as client:
            await has_seen(client, "snapshot")
            client.stall()
            await board.set("a", 0)
            await client.until(lambda: client.stalled)
            for n in range(5):
                await board.set("a", n)
                await heard(channels)
            share_no_longer()
            fails = True
            client.unstall()
            await client.until(lambda: client.complete)
            # Never an event after a hole.
            assert types(client) == ["snapshot", "message"]
            assert client.lines[-2].startswith("retry: ")
        [record] = [each for each in caplog.records if "'snapshot'" in each.getMessage()]
        assert record.exc_info is not None
        assert record.exc_info[1].__class__ is error.__class__
        fails = False
        async with connected(
            board.channel.subscribe(after=client.last_id, snapshot=snapshot)
        ) as client:
            await has_seen(client, "snapshot")
            assert shown(client) == board.state


async def test_n7_a_function_that_cancels_itself_has_failed(
    place: Place, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("Trio cancels scopes, not tasks")

    async def cancels() -> None:
        raise asyncio.CancelledError

    async with place.channels() as channels:
        news = channels.channel("news")
        with pytest.raises(RuntimeError, match="'snapshot' of channel 'news' was cancelled"):
            await Client().run(news.subscribe(snapshot=cancels))


class NoError(BaseException):
    """As KeyboardInterrupt and SystemExit, which a test runner would take for its own."""


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), NoError("secret")])
@pytest.mark.parametrize("is_async", [True, False])
async def test_n7_whatever_a_function_raises_ends_nothing_but_its_stream(
    place: Place, error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    async def fail_later() -> None:
        raise error

    async with place.channels() as channels:
        board = Board(channels.channel("board", history=1))
        after = await board.set("a", 1)
        for number in range(3):
            await board.set("a", number)
        function = fail_later if is_async else fail
        name = type(error).__name__
        with pytest.raises(RuntimeError, match=f"'snapshot' of channel 'board' raised {name}"):
            await Client().run(board.channel.subscribe(snapshot=function))
        client = coming_back(after)
        await client.run(of(lambda after: board.channel.subscribe(after=after, snapshot=function)))
        assert (client.status, client.seen) == (200, [])
        async with connected(board.channel.subscribe(snapshot=board.snapshot)) as other:
            await has_seen(other, "snapshot")
    assert f"raised {type(error).__name__}" in caplog.text


async def test_n7_a_broker_that_goes_away_under_a_call_lets_clients_come_back(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        client = Client()
        await client.run(news.subscribe(snapshot=raises(BrokerUnavailable("away"))))
        assert client.status == 200
        assert client.complete
        assert client.seen == []


# N8


async def test_n8_headers_wait_and_what_is_published_meanwhile_is_not_missed(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        news = channels.channel("news")
        board.hold()
        client = Client()
        selections = board.channel.on(snapshot=board.snapshot), news.on()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, channels.subscribe(*selections, ping_interval=0.05))
            await until(lambda: board.calls)
            await board.set("a", 1)
            await news.publish("news")
            await anyio.sleep(0.4)  # longer than headers wait for an event elsewhere
            assert client.messages == []
            board.let_go()
            await client.until(lambda: len(client.seen) == 3)
            assert client.seen[0].type == "snapshot"
            client.disconnect()


async def test_n8_in_the_middle_other_channels_and_pings_go_on(
    place: Place, share_no_longer: Callable[[], None]
) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board", history=1))
        news = channels.channel("news")
        selections = board.channel.on(snapshot=board.snapshot), news.on()
        async with connected(channels.subscribe(*selections, ping_interval=0.05)) as client:
            await has_seen(client, "snapshot")
            client.stall()
            await board.set("a", 0)
            await client.until(lambda: client.stalled)
            for n in range(5):
                await board.set("a", n)
                await heard(channels)
            share_no_longer()
            board.hold()
            client.unstall()
            await until(lambda: board.calls == 2)
            await news.publish("meanwhile")
            await client.until(lambda: "meanwhile" in client.data)
            pings = client.body.count(b": ping")
            await client.until(lambda: client.body.count(b": ping") > pings)
            assert types(client).count("snapshot") == 1
            board.let_go()
            await client.until(lambda: types(client).count("snapshot") == 2)


async def test_n8_a_client_whose_owner_is_disconnected_does_not_wait(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        client = Client()
        called = anyio.Event()

        async def forever() -> None:
            called.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, news.subscribe(snapshot=forever, owner="ann"))
            with anyio.fail_after(20):
                await called.wait()
            assert await channels.disconnect(owner="ann") == 1
            await client.until(lambda: client.complete)
            assert client.status == 200


# N9


def test_n9_what_is_no_function_is_refused_where_it_is_given() -> None:
    channels = Channels()
    news = channels.channel("news")
    wrong: Any = 7
    for take in (news.on, news.subscribe, news.listen):
        with pytest.raises(TypeError, match="'snapshot' must be a function"):
            take(snapshot=wrong)


@pytest.mark.parametrize("start", ["earliest", 0, 5])
def test_n9_a_snapshot_is_where_a_client_begins(start: Any) -> None:
    channels = Channels()
    news, more = channels.channel("news"), channels.channel("more")
    for take in (
        lambda: news.subscribe(start=start, snapshot=list),
        lambda: news.listen(start=start, snapshot=list),
        lambda: channels.subscribe(more.on(), news.on(snapshot=list), start=start),
    ):
        with pytest.raises(ValueError, match="'start' must be 'live' where there is a 'snapshot'"):
            take()


class Change(BaseModel):
    name: str


async def test_n9_neither_the_filter_nor_the_type_is_asked_about_it(place: Place) -> None:
    async with place.channels() as channels:
        board = channels.channel("board", Change)
        asked: list[Any] = []

        def only_b(event: ServerSentEvent) -> bool:
            asked.append(event.data)
            return event.data == Change(name="b")

        async with connected(board.subscribe(filter=only_b, snapshot=lambda: [1, 2])) as client:
            await client.has([1, 2])
            for name in "ab":
                await board.publish(Change(name=name))
            await client.has([1, 2], {"name": "b"})
        assert set(map(type, asked)) == {Change}


# N10


async def test_n10_a_listener_gets_snapshots_as_a_client_does(place: Place) -> None:
    async with place.channels() as channels:
        board = Board(channels.channel("board"))
        before = await board.set("a", 1)
        async with board.channel.listen(snapshot=board.snapshot) as events:
            first = await anext(events)
            assert (first.event, first.data, first.id) == ("snapshot", {"a": 1}, before)
            # It is a copy: the state goes on.
            first.data["a"] = 5
            assert board.state == {"a": 1}
            await board.set("a", 2)
            assert (await anext(events)).data == {"a": 2}
        async with board.channel.listen(snapshot=raises(KeyError("x"))) as events:
            with pytest.raises(KeyError):
                await anext(events)
        async with board.channel.listen(after="x", snapshot=raises(KeyError("x"))) as events:
            with pytest.raises(KeyError):
                await anext(events)


async def test_n10_whoever_reads_the_body_gets_snapshots_too(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        body = news.subscribe(snapshot=lambda: {"a": 1}).body_iterator
        chunk = await anext(body)
        assert b"event: snapshot\n" in chunk
        assert json.loads(chunk.decode().split("data: ")[1]) == {"a": 1}
        await body.aclose()


@pytest.mark.virtual_time
async def test_n10_nothing_is_left_of_calls_and_snapshots() -> None:
    channels = Channels()
    news = channels.channel("news")
    async with connected(news.subscribe()):
        for _ in range(5):
            async with connected(news.subscribe(snapshot=lambda: "x" * 1_000)) as client:
                await client.has("x" * 1_000)
        hub = channels._hubs.hub()
        await anyio.sleep(3)
        assert not hub.snapshots._recent
        assert not hub.snapshots._running
        assert hub.snapshots._end_timer is None


# The position


async def test_position_is_the_id_of_the_newest_event_or_of_the_beginning(place: Place) -> None:
    async with place.channels() as channels:
        rooms = channels.channel("rooms", keyed=True)
        beginning = await rooms.position(key="a")
        assert offset_of(beginning) == 0
        assert await rooms.position(key="a") == beginning
        newest = await rooms.publish(1, key="a")
        assert newest.split("-")[0] == beginning.split("-")[0]
        assert await rooms.position(key="a") == newest
        async with connected(rooms.subscribe(key="a", after=beginning)) as client:
            await client.has(1)
        with pytest.raises(ValueError, match="`key` is missing"):
            await rooms.position()


# The page


@asyncio_only
async def test_the_dashboard_and_the_order_book_of_the_page_are_as_it_says() -> None:
    page = run_blocks(DOCS / "snapshots.md")
    dashboard, book = Client("/dashboards/sales"), Client("/books/ACME")
    with anyio.fail_after(60):
        async with page["channels"], anyio.create_task_group() as tasks:
            await page["write"]("sales", "today", 1.0)
            await page["add"]("ACME", "10.5", 100)
            for client in (dashboard, book):
                tasks.start_soon(client.run, page["app"])
                await has_seen(client, "snapshot")
            await page["write"]("sales", "today", 2.0)
            await page["add"]("ACME", "10.5", 50)
            await has_seen(dashboard, "snapshot", "message")
            assert shown(dashboard) == {"today": 2.0}
            await has_seen(book, "snapshot", "message")
            assert book.seen[0].data == {"10.5": 100}
            assert book.seen[1].data == {"price": "10.5", "add": 50}
            assert page["books"]["ACME"].prices == {"10.5": 150}
            for client in (dashboard, book):
                client.disconnect()
