"""`sserpent check`: says why a stream does not stream."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx2

from ..client import EventTooLarge
from .findings import (
    Finding,
    compressed_findings,
    findings,
    held_back_compressed,
    not_seen_compressed,
)
from .no_response import no_response
from .observation import Observation
from .terminal import coloured, discard, visible, without_password

_COLOURS = {"ok": "green", "note": "yellow", "fail": "red"}


def check(given: Any) -> int:
    """Looks at a stream, prints what is found, and returns the exit status.

    Args:
        given: The arguments of the command line.
    """
    _print(visible(without_password(given.url)))
    arrival = "No event came."
    try:
        seen = anyio.run(_observe, given)
    except Exception as error:
        found = [no_response(error, _proxy_for(given.url))]
    else:
        found = list(findings(seen, given.seconds))
        if _is_worth_another_look(given, seen, found):
            found += _compressed_findings(given)
        if seen.came_at_once:
            arrival = "Whether events arrive as they are sent cannot be told."
        elif seen.events:
            arrival = "Events arrive as they are sent."
    for each in found:
        _show(each)
    failed = any(each.level == "fail" for each in found)
    _print("Something keeps events from arriving." if failed else arrival)
    return 1 if failed else 0


def _proxy_for(url: str) -> str:
    """Returns the proxy that the environment names for a URL, as the HTTP client takes it; empty if
    there is none."""
    proxies = getproxies()
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return without_password(proxy if "://" in proxy else f"http://{proxy}")


def _is_worth_another_look(given: Any, seen: Observation, found: list[Finding]) -> bool:
    """Returns whether to ask for the stream with compression too: browsers do, and what compresses
    on the way may collect what comes well without."""
    failed = any(each.level == "fail" for each in found)
    once = given.post is not None or "accept-encoding" in _names(given.headers)
    return not failed and not once and not seen.came_at_once


def _compressed_findings(given: Any) -> list[Finding]:
    try:
        seen = anyio.run(partial(_observe, given, compressed=True))
        return list(compressed_findings(seen, given.seconds))
    except httpx2.ReadTimeout as error:
        return [held_back_compressed(str(error))]
    except httpx2.HTTPError as error:
        return [not_seen_compressed(f"{type(error).__name__}: {error}")]


def _names(headers: list[tuple[str, bytes]]) -> set[str]:
    return {name.lower() for name, _ in headers}


def _headers(given: Any, *, compressed: bool) -> list[tuple[str, bytes]]:
    """Returns the headers of the request. Without `Accept-Encoding` the HTTP client asks for what
    it can decode."""
    defaults = [("Accept", b"text/event-stream")]
    # A POST may have effects: it is sent once, as browsers send it.
    if not compressed and given.post is None:
        defaults.append(("Accept-Encoding", b"identity"))
    names = _names(given.headers)
    return [*(each for each in defaults if each[0].lower() not in names), *given.headers]


async def _observe(given: Any, *, compressed: bool = False) -> Observation:
    """Reads the stream to its end, or for as long as is given.

    Args:
        given: The arguments of the command line.
        compressed: Whether to ask for compression, and to read only what is compressed then.
    """
    headers = _headers(given, compressed=compressed)
    request: dict[str, Any] = {"headers": headers, "json": given.post}
    method = "GET" if given.post is None else "POST"
    timeout = httpx2.Timeout(given.seconds, read=None)
    # Any: what type checkers know of the client is not much.
    client: Any = httpx2.AsyncClient(timeout=timeout, follow_redirects=True)
    seen: Observation | None = None
    # The client is made: that takes seconds where the machine is slow, and is not the server's.
    began = time.monotonic()
    async with client:
        # One limit for all: what has come counts, however long the last bytes take to look at.
        with anyio.move_on_after(given.seconds):
            async with client.stream(method, given.url, **request) as response:
                seen = Observation(
                    response.status_code,
                    {name.lower(): value for name, value in response.headers.items()},
                    response.http_version,
                    time.monotonic() - began,
                    response.request.headers.get("Accept-Encoding", "identity"),
                )
                seen.undecoded = not _encodings(seen.encoding) <= {
                    "identity",
                    *_encodings(client.headers["Accept-Encoding"]),
                }
                if not seen.undecoded and (not compressed or seen.encoding != "identity"):
                    await _read(response, seen, began)
    if seen is None:
        raise httpx2.ReadTimeout(f"the headers did not come within {given.seconds:g} s")
    return seen


def _encodings(header: str) -> set[str]:
    return {each.strip().lower() for each in header.split(",")}


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
    _print(f"  {level}  {visible(finding.text)}")
    if finding.advice:
        _print(f"        {visible(finding.advice)}")


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The status is still asked for.
        discard(sys.stdout)
