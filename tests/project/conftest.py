"""What the tests of the examples, and those in a browser, share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import pytest

from browser import Browser
from browser_setup import reason_to_skip
from servers import TESTS, Server, uvicorn


@pytest.fixture(scope="module")
def all_examples() -> Iterator[Server]:
    """All examples in one application, on a server for a whole module."""
    server = Server(uvicorn("examples_app:app", "--app-dir", str(TESTS.parent / "examples")))
    yield server
    server.close()


@pytest.fixture(scope="module")
def started_browser() -> Iterator[Browser]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    from filelock import FileLock

    # One worker installs what is missing.
    with FileLock(Path(gettempdir(), "sserpent-browser.lock")):
        reason = reason_to_skip()
    if reason:
        pytest.skip(reason)
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        browser = Browser(directory)
        yield browser
        browser.driver.quit()
