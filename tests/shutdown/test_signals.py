"""D8: handlers of signals that an application puts on top, keeps, chains and restores."""

import signal
import subprocess
from collections.abc import Callable

import pytest

from servers import Server, commands, fetch, open_stream, read_to_end, until

# What ends streams is no part of the core.
pytestmark = pytest.mark.once

SERVERS = commands("signals_app:app")

Serve = Callable[..., Server]


def end_with_sigterm(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail(f"SIGTERM was swallowed\n{server.log}")
    assert "RecursionError" not in server.log


def a_stream_comes_and_goes(server: Server) -> None:
    before = server.log.count("closed")
    open_stream(server, "/idle").close()
    until(lambda: server.log.count("closed") == before + 1)


# What an application does while a stream is open, and after it has gone.
STORIES: dict[str, tuple[list[str], list[str]]] = {
    "on top of the server's, kept": (["/put-on-top-of/servers"], []),
    "chained to ours, kept": (["/save/ours", "/put-on-top-of/ours"], []),
    "restored to ours": (["/save/ours", "/put-on-top-of/ours"], ["/restore/ours"]),
    "restored to the server's": (["/put-on-top-of/servers"], ["/restore/servers"]),
    "restored to ours at once": (["/save/ours", "/put-on-top-of/ours", "/restore/ours"], []),
}


# What follows: whether further streams come and go, and whether one is open at the end.
@pytest.mark.parametrize(
    ("name", "again", "open_at_the_end"),
    [
        ("uvicorn", False, False),
        ("uvicorn", False, True),
        ("uvicorn", True, False),
        ("uvicorn", True, True),
        ("granian", True, True),
    ],
)
@pytest.mark.parametrize("story", STORIES)
def test_sigterm_ends_the_server_whatever_was_put_on_top(
    serve: Serve, name: str, story: str, again: bool, open_at_the_end: bool
) -> None:
    if name == "granian" and story == "on top of the server's, kept":
        pytest.skip("the application is in charge, and granian itself cannot be asked")
    server = serve(SERVERS[name])
    meanwhile, afterwards = STORIES[story]
    fetch(server, "/save/servers")
    stream = open_stream(server, "/idle")
    for path in meanwhile:
        fetch(server, path)
    stream.close()
    until(lambda: "closed" in server.log)
    for path in afterwards:
        fetch(server, path)
    if again:
        a_stream_comes_and_goes(server)
    expected = server.log.count("closed")
    if open_at_the_end:
        stream = open_stream(server, "/idle")
        expected += 1
    end_with_sigterm(server)
    if open_at_the_end:
        read_to_end(stream)
        stream.close()
    assert server.log.count("closed") == expected, server.log


def test_nothing_of_ours_is_left_after_the_last_stream(serve: Serve) -> None:
    server = serve(SERVERS["uvicorn"])
    before = fetch(server, "/handler").splitlines()[-1]
    for _ in range(2):
        stream = open_stream(server, "/idle")
        assert "sserpent" in fetch(server, "/handler")
        stream.close()
        until(lambda: "sserpent" not in fetch(server, "/handler"))
        assert fetch(server, "/handler").splitlines()[-1] == before
