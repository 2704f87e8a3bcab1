"""Runs whose generators a test drives, and how their followers see them end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from channel_clients import Client, MakeChannels
from sserpent.channels import Run as StartedRun
from sserpent.channels import Runs


class Answer:
    """A generator that a test drives: it yields what it is given, and notes how it ends."""

    def __init__(self) -> None:
        self.entered = False
        self.cancelled = 0
        self.cleaned_up = False
        self._items: list[Any] = []
        self._news = anyio.Event()

    def say(self, *items: Any) -> None:
        self._items.extend(items)
        self._news.set()

    def end(self) -> None:
        self.say(StopAsyncIteration)

    async def __call__(self) -> AsyncIterator[Any]:
        self.entered = True
        try:
            while True:
                while not self._items:
                    self._news = anyio.Event()
                    await self._news.wait()
                item = self._items.pop(0)
                if item is StopAsyncIteration:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.cleaned_up = True


@asynccontextmanager
async def answering(
    make_channels: MakeChannels, owner: Any = None, **options: Any
) -> AsyncIterator[tuple[Runs, Answer, StartedRun]]:
    """A run of a generator that the test drives. What a test leaves running is not waited for."""
    options.setdefault("shutdown_grace", 0)
    async with make_channels() as channels:
        runs, answer = channels.runs("answers", **options), Answer()
        yield runs, answer, await runs.start(answer(), owner=owner)


def end_of(client: Client) -> tuple[str, str | None]:
    """How a run has ended, as its follower was told: once, and as the last thing."""
    ends = [each for each in client.seen if each.type == "run-end"]
    assert len(ends) == 1
    assert ends[0] == client.seen[-1]
    assert ends[0].data.keys() == {"run", "end", "reason"}
    return ends[0].data["end"], ends[0].data["reason"]


def said(client: Client) -> list[Any]:
    return [each.data for each in client.seen if each.type != "run-end"]


async def followed(runs: Runs, run_id: str, **arguments: Any) -> Client:
    """A follower that has stayed to the end."""
    client = Client()
    with anyio.fail_after(100):
        await client.run(await runs.follow(run_id, **arguments))
    assert client.complete
    return client
