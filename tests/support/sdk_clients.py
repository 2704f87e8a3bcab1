"""Clients of model providers' SDKs, which keep their connections until they are collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

# A socket that is collected in another test would be that test's failure.
IGNORED = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collected_clients() -> Iterator[None]:
    """Has the connections of a test's clients end with it."""
    yield
    gc.collect()


def read_body(method: str, url: str, **options: Any) -> tuple[str, bool]:
    """Returns the body of a response, and whether it has its end."""
    body = b""
    with httpx.stream(method, url, timeout=60, **options) as response:
        response.raise_for_status()
        try:
            for part in response.iter_bytes():
                body += part
        except httpx.RemoteProtocolError:
            return body.decode(), False
    return body.decode(), True
