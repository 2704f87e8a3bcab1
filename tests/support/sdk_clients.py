"""Clients of model providers' SDKs, which keep their connections until they are collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

# A socket that is collected in another test would be that test's failure.
IGNORED = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collected_clients() -> Iterator[None]:
    """Has the connections of a test's clients end with it."""
    yield
    gc.collect()
