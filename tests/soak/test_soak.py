"""A short soak, with a new seed each time: `make soak SOAK_SEED=...` runs a failing one again."""

from __future__ import annotations

import asyncio
import random

import pytest

from soak import Soak

pytestmark = [pytest.mark.once, pytest.mark.alone]


def test_a_cluster_keeps_its_promises_under_faults() -> None:
    seed = random.SystemRandom().randrange(10**6)
    lines = [f"seed {seed}"]
    soak = Soak(seed, seconds=12, say=lines.append)
    found = asyncio.run(soak.run())
    assert not found, "\n".join([*found, *lines, soak.summary(), soak.logs])
