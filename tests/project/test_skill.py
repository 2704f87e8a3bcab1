"""The skill for coding agents that the package brings: its code does what it says, by itself, for
what applications need most."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

import sserpent
from pages import blocks, run_blocks
from sserpent.testing import connect

SKILL = Path(sserpent.__file__).parent / ".agents" / "skills" / "sserpent" / "SKILL.md"


@pytest.fixture
def code() -> dict[str, Any]:
    return run_blocks(SKILL)


def test_e10_the_skill_is_short_and_says_when_it_is_for() -> None:
    text = SKILL.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
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


def test_e10_its_own_test_passes(code: dict[str, Any]) -> None:
    assert len(blocks(SKILL)) == 1
    anyio.run(code["test_export"])


def test_e10_its_job_survives_a_reload(code: dict[str, Any]) -> None:
    async def main() -> None:
        async with connect(code["app"]) as client:
            async with client.events("/jobs/mine", method="POST") as events:
                first = await events.next()
                await events.leave()
            after = {"Last-Event-ID": first.last_event_id}
            async with client.events("/jobs/mine", headers=after) as events:
                assert (await events.next()).json() == {"percent": 100}
                assert (await events.next()).type == "run-end"

    anyio.run(main)


def test_e10_its_inbox_has_the_state_and_then_what_changes_for_one_user(
    code: dict[str, Any],
) -> None:
    async def main() -> None:
        async with connect(code["app"]) as client, client.events("/inbox/ada") as events:
            snapshot = await events.next()
            assert (snapshot.type, json.loads(snapshot.data)) == ("snapshot", {"percent": 0})
            await code["change"]("bob", 1)
            await code["change"]("ada", 7)
            assert (await events.next()).json() == {"percent": 7}

    anyio.run(main)


def test_e10_its_chat_has_one_answer_which_a_page_finds_again(code: dict[str, Any]) -> None:
    async def endless() -> Any:
        yield code["Step"](percent=1)
        await anyio.sleep_forever()

    async def main() -> None:
        async with code["channels"]:
            jobs = code["jobs"]
            run = await jobs.start(endless(), key="chat")
            assert (await jobs.active("chat")).id == run.id
            await jobs.stop(key="chat")
            with anyio.fail_after(10):
                assert (await run.wait()).state == "stopped"
            assert await jobs.active("chat") is None

    anyio.run(main)
