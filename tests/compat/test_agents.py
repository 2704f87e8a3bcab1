"""pydantic-ai's adapters and ag-ui's encoder: what they frame goes through `framed=True`, and has
keep-alives and an end that their own response does not have."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from servers import Server, on, until, uvicorn

pytest.importorskip("pydantic_ai.ui.ag_ui", reason="pydantic-ai-slim is not installed")
pytestmark = pytest.mark.once  # the bytes are tested with both cores

APP = "agents_app:app"
PATHS = [
    "/framed/ag-ui",
    "/framed/vercel",
    "/framed-by-hand/ag-ui",
    "/protocol/ag-ui",
    "/protocol/vercel",
]
paths = pytest.mark.parametrize("path", PATHS)


def body(path: str, prompt: str) -> dict[str, Any]:
    """Returns what the client of the path's protocol posts."""
    if path.endswith("vercel"):
        message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": prompt}]}
        return {"trigger": "submit-message", "id": "chat", "messages": [message]}
    message = {"id": "1", "role": "user", "content": prompt}
    nothing: dict[str, Any] = {"state": {}, "tools": [], "context": [], "forwardedProps": {}}
    return {"threadId": "t", "runId": "r", "messages": [message], **nothing}


def comparable(frames: bytes) -> str:
    """Leaves out the keep-alives, and what is new each time: ids and times."""
    text = frames.decode().replace(": ping\n", "")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "an-id", text)
    return re.sub(r'"timestamp":("[^"]*"|\d+)', '"timestamp":0', text)


@on("uvicorn")
@paths
@pytest.mark.parametrize("prompt", ["hello", "fail"])
def test_e1_the_bytes_are_those_of_their_own_response(
    shared: Server, path: str, prompt: str
) -> None:
    theirs_path = re.sub("framed|protocol", "theirs", path)
    posted = body(path, prompt)
    theirs = httpx.post(shared.url + theirs_path, json=posted, timeout=30)
    ours = httpx.post(shared.url + path, json=posted, timeout=30)
    assert comparable(ours.content) == comparable(theirs.content)
    assert "data: " in theirs.text
    for name in ("content-type", "x-vercel-ai-ui-message-stream"):
        assert ours.headers.get(name) == theirs.headers.get(name)


@on("uvicorn")
@paths
def test_e1_a_keep_alive_comes_and_a_client_that_leaves_cancels_the_run(
    shared: Server, path: str
) -> None:
    shared.begin_log()
    with httpx.stream("POST", shared.url + path, json=body(path, "wait"), timeout=30) as response:
        received, texts = "", response.iter_text()  # httpx leaves with the last reference to it
        while not received.endswith(2 * ": ping\n"):
            received += next(texts)
        assert '"delta":"Hel"' in received
        assert "run cancelled" not in shared.log
    until(lambda: "run cancelled" in shared.log)
    assert "Traceback" not in shared.log


def test_e1_a_shutdown_cuts_each_stream_and_cancels_its_run(serve: Callable[..., Server]) -> None:
    server = serve(uvicorn(APP, "--timeout-graceful-shutdown", "30"))
    with ExitStack() as stack:
        streams = [
            stack.enter_context(
                httpx.stream("POST", server.url + path, json=body(path, "wait"), timeout=30)
            )
            for path in PATHS
        ]
        until(lambda: server.log.count("run waits") == len(PATHS))
        server.process.terminate()
        for response in streams:
            # A client takes a body that is whole for an answer that is.
            with pytest.raises(httpx.RemoteProtocolError):
                response.read()
    until(lambda: server.process.poll() is not None)
    assert server.log.count("run cancelled") == len(PATHS)
    assert "Traceback" not in server.log
