"""The lock that is held while a tail asks the broker: one holder at a time, in the order in which
they came, and whoever is cancelled leaves it to the next."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel
import pytest

from sserpent.channels.fanout.tail import _Lock

pytestmark = [pytest.mark.anyio, pytest.mark.once]


async def test_those_who_wait_hold_it_in_order_one_at_a_time() -> None:
    lock, told, holders = _Lock(), [], 0

    async def hold(number: int) -> None:
        nonlocal holders
        async with lock:
            holders += 1
            assert holders == 1
            told.append(number)
            await anyio.lowlevel.checkpoint()
            holders -= 1

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(hold, number, name=str(number))
            await anyio.lowlevel.checkpoint()
    assert told == [*range(5)]
    async with lock:
        pass


@pytest.mark.parametrize("seed", range(30))
async def test_whoever_is_cancelled_leaves_it_to_the_next(seed: int) -> None:
    dice = random.Random(seed)
    lock, held, is_held = _Lock(), 0, False

    async def hold(scope: anyio.CancelScope) -> None:
        nonlocal held, is_held
        with scope:
            async with lock:
                assert not is_held
                is_held = True
                try:
                    for _ in range(dice.randrange(3)):
                        await anyio.lowlevel.checkpoint()
                finally:
                    is_held = False
            held += 1

    scopes = [anyio.CancelScope() for _ in range(20)]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(hold, scope)
            for scope in dice.sample(scopes, 12):
                for _ in range(dice.randrange(3)):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        async with lock:
            pass
    assert held >= 8
