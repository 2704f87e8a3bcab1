"""`sserpent check`: says why a stream does not stream."""

from __future__ import annotations

import sys
import time
from typing import Any

import anyio
import httpx2

from ..client import EventTooLarge
from .findings import Finding, findings
from .observation import Observation
from .terminal import coloured, visible

_COLOURS = {"ok": "green", "note": "yellow", "fail": "red"}


def check(given: Any) -> int:
    """Looks at a stream, prints what is found, and returns the exit status.

    Args:
        given: The arguments of the command line.
    """
    print(visible(given.url), flush=True)
    arrival = "No event came."
    try:
        seen = anyio.run(_observe, given)
        found = list(findings(seen, given.seconds))
        if seen.events:
            arrival = "Events arrive as they are sent."
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        found = [Finding("fail", f"no response came: {why}", "Does the server run, and there?")]
    for each in found:
        _show(each)
    failed = any(each.level == "fail" for each in found)
    print("Something keeps events from arriving." if failed else arrival)
    return 1 if failed else 0


async def _observe(given: Any) -> Observation:
    """Reads the stream to its end, or for as long as is given."""
    began = time.monotonic()
    headers = [("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), *given.headers]
    request: dict[str, Any] = {"headers": headers, "json": given.post}
    method = "GET" if given.post is None else "POST"
    timeout = httpx2.Timeout(given.seconds, read=None)
    # Any: what type checkers know of the client is not much.
    client: Any = httpx2.AsyncClient(timeout=timeout, follow_redirects=True)
    seen: Observation | None = None
    async with client:
        # One limit for all: what has come counts, however long the last bytes take to look at.
        with anyio.move_on_after(given.seconds):
            async with client.stream(method, given.url, **request) as response:
                seen = Observation(
                    response.status_code,
                    {name.lower(): value for name, value in response.headers.items()},
                    response.http_version,
                    time.monotonic() - began,
                )
                await _read(response, seen, began)
    if seen is None:
        raise httpx2.ReadTimeout(f"the headers did not come within {given.seconds:g} s")
    return seen


async def _read(response: Any, seen: Observation, began: float) -> None:
    try:
        async for chunk in response.aiter_bytes():
            seen.take(time.monotonic() - began, chunk)
    except httpx2.TransportError as error:
        seen.cut = str(error) or type(error).__name__
    except (httpx2.DecodingError, EventTooLarge) as error:
        seen.unreadable = f"{type(error).__name__}: {error}"
    seen.ended_at = time.monotonic() - began


def _show(finding: Finding) -> None:
    level = coloured(f"{finding.level:>4}", _COLOURS[finding.level], sys.stdout)
    print(f"  {level}  {visible(finding.text)}")
    if finding.advice:
        print(f"        {visible(finding.advice)}", flush=True)
