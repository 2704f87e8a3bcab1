"""What the tests of the core share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_is_finalized_at_the_limit() -> Iterator[None]:
    """Where a test comes to the recursion limit, a finalizer of whatever else is garbage would fail
    there, and pytest would lay that to the test."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
