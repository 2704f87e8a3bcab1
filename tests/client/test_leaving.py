"""R15 on a real uvicorn: a reader that leaves early closes its connection."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import pytest

from servers import Server, until, uvicorn
from sserpent.client import aiter_events, iter_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def upstream(serve: Any) -> Server:
    server: Server = serve(uvicorn("upstream_app:app"))
    return server


def wait_until_all_left(upstream: Server, count: int) -> None:
    until(lambda: httpx2.get(upstream.url + "/clients").json() == {"came": count, "left": count})


def test_r15_leaving_an_iterator_closes_the_connection(upstream: Server) -> None:
    # The client stays open: it would close its connections with itself.
    with httpx2.Client() as client:
        request = client.build_request("GET", upstream.url + "/generate")
        for count in (1, 2):
            with iter_events(client.send(request, stream=True).iter_bytes()) as events:
                assert next(events).json() == {"token": "x"}
            wait_until_all_left(upstream, count)


# httpx2 leaves the generators within its own to the event loop, of which Trio warns.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx2")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_r15_leaving_an_async_iterator_closes_the_connection(upstream: Server) -> None:
    async with httpx2.AsyncClient() as client:
        request = client.build_request("GET", upstream.url + "/generate")
        for count in (1, 2):
            response = await client.send(request, stream=True)
            async with aiter_events(response.aiter_bytes()) as events:
                assert (await anext(events)).json() == {"token": "x"}
            await anyio.to_thread.run_sync(wait_until_all_left, upstream, count)
