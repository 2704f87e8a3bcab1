"""The event loops of tests that are marked `anyio`: asyncio and Trio in turn, unless the test says
otherwise. Those that are marked `virtual_time` have a clock that jumps."""

from __future__ import annotations

from typing import Any

import pytest

from virtual_time import VirtualTimeLoop

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


def backend(name: str, request: pytest.FixtureRequest) -> Any:
    """Returns the event loop of a test as anyio's plugin takes it."""
    if request.node.get_closest_marker("virtual_time") is None:
        return name
    if name == "asyncio":
        return name, {"loop_factory": VirtualTimeLoop}
    import trio.testing

    return name, {"clock": trio.testing.MockClock(autojump_threshold=0)}
