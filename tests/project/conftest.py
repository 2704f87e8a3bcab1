"""What the tests of the examples share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import TESTS, Server, uvicorn


@pytest.fixture(scope="module")
def all_examples() -> Iterator[Server]:
    """All examples in one application, on a server for a whole module."""
    server = Server(uvicorn("examples_app:app", "--app-dir", str(TESTS.parent / "examples")))
    yield server
    server.close()
