"""The examples of reading and of testing: a gateway, a reader that reconnects, tests of streams."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx2
import pytest

from event_loops import asyncio_only
from scripted_server import CHUNKED, STREAM, chunk, nothing_to_come, scripted
from servers import until, uvicorn
from sserpent.client import IncompleteStream
from sserpent.testing import FakeUpstream, connect

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_tests_among_the_examples_pass() -> None:
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", f"pythonpath={EXAMPLES}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", EXAMPLES, "test_streams.py"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


COMPLETION = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}]}


def test_the_gateway_on_a_real_server_stops_its_upstream_when_its_client_leaves(
    serve: Any,
) -> None:
    upstream = serve(uvicorn("upstream_app:app"))
    gateway = serve(uvicorn("gateway:app"), EXAMPLES, UPSTREAM_URL=upstream.url)
    url = gateway.url + "/v1/chat/completions"
    with httpx2.stream("POST", url, json=COMPLETION) as response:
        lines = response.iter_lines()
        assert next(lines) == 'data: {"token":"x"}'
        assert httpx2.get(upstream.url + "/clients").json() == {"came": 1, "left": 0}
    until(lambda: httpx2.get(upstream.url + "/clients").json() == {"came": 1, "left": 1})
    assert "Traceback" not in gateway.log


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize(
    ("upstream", "events"),
    [
        ([b'data: {"n": 1}\n\ndata: [DONE]\n\n'], ['{"n":1}', "[DONE]"]),
        ([b'data: {"n": 1}\n\n'], ['{"n":1}', "error"]),
        ([b'data: {"n": 1}\n\n', OSError("down")], ['{"n":1}', "error"]),
    ],
)
async def test_the_gateway_ends_well_only_if_its_upstream_does(
    monkeypatch: Any, upstream: list[Any], events: list[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import gateway

    # The error of the generator leaves the application after its client has been told.
    fails = (
        pytest.raises((IncompleteStream, httpx2.RemoteProtocolError))
        if events[-1] == "error"
        else nullcontext()
    )
    with fails:
        async with connect(FakeUpstream(upstream)) as provider, connect(gateway.app) as client:
            gateway.app.state.upstream = provider
            path = "/v1/chat/completions"
            async with client.events(path, method="POST", json=COMPLETION) as read:
                data = [event.data async for event in read]
    assert [each if '"error"' not in each else "error" for each in data] == events


def test_the_reader_comes_back_until_the_server_says_that_nothing_comes() -> None:
    with scripted(
        [CHUNKED, chunk(b"retry: 1\nid: 1\ndata: a\n\nid: 2\ndata: half")],
        [STREAM, b"id: 2\nevent: e\ndata: b\n\n"],
        nothing_to_come(),
    ) as server:
        done = subprocess.run(
            [sys.executable, "reconnect.py", server.url],
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == ("1 message a\n2 e b\n", "")
        ids = [server.header(number, "Last-Event-ID") for number in range(3)]
        assert ids == [None, b"1", b"2"]
