"""The skill for coding agents that the package brings: its code does what it says, by itself, for
what applications need most."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import HTTPException

import sserpent
from event_loops import asyncio_only
from pages import blocks, run_blocks
from sserpent import EventSourceResponse
from sserpent.protocols import OpenAIChat
from sserpent.testing import StreamEnded, connect, connect_sync

pytestmark = pytest.mark.anyio

SKILL = Path(sserpent.__file__).parent / ".agents" / "skills" / "sserpent" / "SKILL.md"


@pytest.fixture
def code() -> dict[str, Any]:
    return run_blocks(SKILL)


def test_e10_the_skill_is_short_and_says_when_it_is_for() -> None:
    text = SKILL.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    front = re.match(r"---\nname: (\S+)\ndescription: (.+)\n---\n", text)
    assert front is not None
    assert front[1] == SKILL.parent.name
    assert len(front[2]) < 1024


def test_e10_what_it_says_of_names_is_so(code: dict[str, Any]) -> None:
    text = re.sub(r"^```.*?^```$", "", SKILL.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for dotted in re.findall(r"`(?:await )?((?:jobs|inbox|sserpent)\.[\w.]+)", text):
        first, *rest = dotted.split(".")
        found = {**code, "sserpent": sserpent}[first]
        for name in rest:
            if not hasattr(found, name):
                __import__(f"{found.__name__}.{name}")
            found = getattr(found, name)


@asyncio_only
async def test_e10_its_own_test_passes(code: dict[str, Any]) -> None:
    assert len(blocks(SKILL)) == 1
    await code["test_export"]()


@asyncio_only
async def test_e10_its_job_survives_a_reload(code: dict[str, Any]) -> None:
    async with connect(code["app"]) as client:
        async with client.events("/jobs/mine", method="POST") as events:
            first = await events.next()
            await events.leave()
        after = {"Last-Event-ID": first.last_event_id}
        async with client.events("/jobs/mine", headers=after) as events:
            assert (await events.next()).json() == {"percent": 100}
            assert (await events.next()).type == "run-end"
        assert (await client.post("/jobs/no%20id")).status_code == 422


@asyncio_only
async def test_e10_its_inbox_has_the_state_and_then_what_changes_for_one_user(
    code: dict[str, Any],
) -> None:
    async with connect(code["app"]) as client, client.events("/inbox") as events:
        snapshot = await events.next()
        assert (snapshot.type, json.loads(snapshot.data)) == ("snapshot", {"percent": 0})
        await code["change"]("bob", 1)
        await code["change"]("ada", 7)
        assert (await events.next()).json() == {"percent": 7}


async def endless(code: dict[str, Any]) -> AsyncIterator[Any]:
    yield code["Step"](percent=1)
    await anyio.sleep_forever()


@asyncio_only
async def test_e10_its_chat_has_one_answer_which_only_its_owner_finds_again(
    code: dict[str, Any],
) -> None:
    jobs, user = code["jobs"], await code["current_user"]()
    async with code["channels"]:
        run = await jobs.start(endless(code), key="chat", owner=user)
        with pytest.raises(HTTPException) as error:
            await jobs.start(endless(code), key="chat", owner=user)
        assert error.value.status_code == 409
        assert await jobs.active("chat") is None
        assert (await jobs.active("chat", owner=user)).id == run.id
        await jobs.stop(key="chat", owner=user)
        with anyio.fail_after(10):
            assert (await jobs.wait(run.id, owner=user)).state == "stopped"
        assert await jobs.active("chat", owner=user) is None


@asyncio_only
async def test_e10_an_error_is_a_status_in_a_route_and_an_end_in_a_run(
    code: dict[str, Any],
) -> None:
    app, jobs = code["app"], code["jobs"]

    async def refused() -> AsyncIterator[Any]:
        raise HTTPException(402)
        yield

    @app.post("/as-a-run")
    async def as_a_run() -> Any:
        return (await jobs.start(refused())).follow()

    app.get("/as-a-stream", response_class=EventSourceResponse)(refused)
    async with connect(app) as client:
        assert (await client.get("/as-a-stream")).status_code == 402
        assert (await client.post("/as-a-run")).status_code == 200


@asyncio_only
async def test_e10_a_run_has_the_protocol_that_channels_runs_was_given(
    code: dict[str, Any],
) -> None:
    app, channels = code["app"], code["channels"]
    chats = channels.runs("chats", response_class=OpenAIChat)

    @app.post("/chat", response_class=OpenAIChat)
    async def chat() -> Any:
        return (await chats.start(code["export"]())).follow()

    async with connect(app) as client:
        assert (await client.post("/chat")).text.endswith("data: [DONE]\n\n")


@asyncio_only
async def test_e10_a_logout_ends_the_streams_of_a_user(code: dict[str, Any]) -> None:
    async with connect(code["app"]) as client, client.events("/inbox") as events:
        await events.next()
        assert await code["channels"].disconnect(owner="ada") == 1
        with pytest.raises(StreamEnded):
            await events.next()


def test_e10_a_plain_function_publishes_to_its_inbox(code: dict[str, Any]) -> None:
    with connect_sync(code["app"]) as client, client.events("/inbox") as events:
        assert events.next().type == "snapshot"
        published = code["inbox"].publish_soon(code["Step"](percent=3), key="ada")
        assert published.result(timeout=10)
        assert events.next().json() == {"percent": 3}
