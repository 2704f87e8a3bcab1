"""What a run has yielded goes to a broker that has to be waited for: the first of a pause at once,
what follows together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from sserpent.channels.history.broker import BrokerUnavailable, Item
from sserpent.channels.runs import outbox as module
from sserpent.channels.runs.outbox import ENOUGH, MAX_EVENTS, Outbox

pytestmark = [pytest.mark.once, pytest.mark.anyio]
TOKEN = Item(b"data: token\n\n")


class Appended:
    """Has each number of events that were appended together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.outbox = Outbox(self._append)
        self.is_away = False

    async def _append(self, items: Sequence[Item]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.is_away:
            raise BrokerUnavailable("it is away")
        self.sizes.append(len(items))

    async def keep(self) -> None:
        while True:
            await self.outbox.news()
            await self.outbox.flush()

    def add(self, count: int) -> None:
        for _ in range(count):
            self.outbox.add(TOKEN)

    async def has(self, *sizes: int) -> None:
        """Waits until these were appended, and sees that nothing else is."""
        with anyio.fail_after(20):
            while len(self.sizes) < len(sizes):
                await anyio.lowlevel.checkpoint()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert self.sizes == list(sizes)


@asynccontextmanager
async def keeping(appended: Appended | None = None) -> AsyncIterator[Appended]:
    appended = appended or Appended()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(appended.keep)
        yield appended
        tasks.cancel_scope.cancel()


@pytest.fixture
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHERING", 3600.0)


@pytest.mark.usefixtures("_time_stands_still")
async def test_the_first_goes_at_once_and_what_follows_when_there_is_enough() -> None:
    async with keeping() as appended:
        appended.add(1)
        await appended.has(1)
        appended.add(ENOUGH - 1)
        await appended.has(1)
        appended.add(1)
        await appended.has(1, ENOUGH)
        appended.add(3)
        await appended.has(1, ENOUGH)
        appended.outbox.wake()
        await appended.has(1, ENOUGH, 3)


@pytest.mark.usefixtures("_time_stands_still")
async def test_large_events_are_enough_before_there_are_many() -> None:
    async with keeping() as appended:
        appended.add(1)
        await appended.has(1)
        large = Item(b"data: %b\n\n" % (b"x" * 40_000))
        appended.outbox.add(large)
        await appended.has(1)
        appended.outbox.add(large)
        await appended.has(1, 2)


@pytest.mark.usefixtures("_time_stands_still")
async def test_what_came_while_others_were_on_their_way_is_not_forgotten() -> None:
    appended = Appended()
    appended.add(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(appended.outbox.flush)
        await anyio.wait_all_tasks_blocked()  # it has the first, and is about to append it
        appended.add(ENOUGH)
    assert appended.sizes[0] in (1, ENOUGH + 1)
    async with keeping(appended):
        appended.outbox.wake()
        with anyio.fail_after(20):
            while sum(appended.sizes) < ENOUGH + 1:
                await anyio.lowlevel.checkpoint()
    assert sum(appended.sizes) == ENOUGH + 1


async def test_what_follows_goes_soon_without_more_of_it() -> None:
    async with keeping() as appended:
        appended.add(1)
        await appended.has(1)
        appended.add(2)
        with anyio.fail_after(20):
            while sum(appended.sizes) < 3:
                await anyio.sleep(0.005)
        assert appended.sizes[0] == 1


@pytest.mark.usefixtures("_time_stands_still")
async def test_who_waits_for_space_goes_on_when_some_was_appended() -> None:
    appended = Appended()
    appended.is_away = True
    appended.add(MAX_EVENTS - 1)
    async with anyio.create_task_group() as tasks:
        put = anyio.Event()

        async def put_one() -> None:
            await appended.outbox.put(TOKEN)
            put.set()

        tasks.start_soon(put_one)
        with pytest.raises(BrokerUnavailable):
            await appended.outbox.flush()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert not put.is_set()
        appended.is_away = False
        await appended.outbox.flush()
        with anyio.fail_after(20):
            await put.wait()
    assert appended.sizes == [MAX_EVENTS]
