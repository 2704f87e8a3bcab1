"""The code of the README and of the pages on channels, runs, typed events, reading and testing
works, and does what they say."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient

from pages import DOCS, README, blocks, run_blocks
from scripted_server import STREAM, nothing_to_come, scripted
from sserpent.channels import Channels
from sserpent.testing import FakeUpstream, SyncClient, SyncEvents, connect, connect_sync

WHICH = DOCS / "which.md"
CHANNELS = DOCS / "channels.md"
RUNS = DOCS / "runs.md"
READING = DOCS / "reading.md"
TESTING = DOCS / "testing.md"
TYPED = DOCS / "typed-events.md"


def test_the_code_of_the_readme_does_what_it_says() -> None:
    client = TestClient(run_blocks(README)["app"])
    assert client.get("/items").text == 'data: {"name":"Plumbus","price":32.99}\n\n'
    assert client.get("/prices").text == (
        'event: price\ndata: {"name":"Plumbus","price":32.99}\nid: 1\n\n'
    )


def test_e10_the_readme_names_accelerate_after_its_first_example() -> None:
    first, example, rest = README.read_text(encoding="utf-8").split("```python")[1].partition("```")
    assert "from sserpent import" in first
    assert example
    assert "accelerate()" in rest.partition("\n## ")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="it is for a POSIX shell")
def test_e10_the_command_of_the_readme_copies_the_skill(tmp_path: Path) -> None:
    command = next(iter(re.findall(r"`(cp -r .+?)`", README.read_text(encoding="utf-8"))))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env={**os.environ, "PATH": path})
    assert (tmp_path / ".agents" / "skills" / "sserpent" / "SKILL.md").is_file()


def test_each_kind_of_stream_on_the_page_on_which_one() -> None:
    with connect_sync(run_blocks(WHICH)["app"]) as client:
        rows = [f"row {number}" for number in range(3)]
        for method, url in (("GET", "/export"), ("POST", "/jobs/mine"), ("GET", "/jobs/mine")):
            data = re.findall(r"^data: (.*)$", client.request(method, url).text, re.MULTILINE)
            assert [json.loads(each) for each in data[:3]] == rows
        assert client.post("/jobs/my%20job").status_code == 422
        with client.events("/news") as events:
            client.post("/news", params={"text": "Hello"}).raise_for_status()
            assert read(events) == ["Hello"]
        client.post("/board/king/1").raise_for_status()
        with client.events("/board") as events:
            snapshot = events.next()
            assert (snapshot.type, snapshot.json()) == ("snapshot", {"king": 1})
            client.post("/board/king/2").raise_for_status()
            assert read(events) == [{"king": 2}]


HELLO = {"author": "Ada", "text": "Hello @Grace"}


def read(events: SyncEvents, count: int = 1) -> list[Any]:
    return [json.loads(events.next().data) for _ in range(count)]


def read_of(client: SyncClient, url: str, *items: Any) -> list[Any]:
    """Reads what comes to a URL of what is posted there."""
    with client.events(url) as events:
        for item in items:
            client.post(url, json=item).raise_for_status()
        return read(events, len(items))


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return run_blocks(CHANNELS)


def test_the_rooms_of_the_page_on_channels(page: dict[str, Any]) -> None:
    with connect_sync(page["app"]) as client:
        again = {**HELLO, "text": "again"}
        assert read_of(client, "/rooms/den", HELLO, again) == [HELLO, again]
        first = client.post("/rooms/den", json=HELLO).json()
        client.post("/jobs/den").raise_for_status()
        with client.events("/rooms/den", last_event_id=first) as events:
            assert read(events) == [{"author": "job", "text": "done"}]
        with client.events("/rooms/den", last_event_id="forged") as events:
            reset = events.next()
            assert (reset.type, reset.data) == ("reset", '{"reason":"unknown"}')


def test_several_channels_in_one_stream(page: dict[str, Any]) -> None:
    with connect_sync(page["app"]) as client, client.events("/home/den") as events:
        client.post("/rooms/den", json=HELLO)
        page["news"].publish_soon("news")
        assert sorted(read(events, 2), key=str) == ["news", HELLO]


def test_a_filter_and_a_logout(page: dict[str, Any]) -> None:
    with connect_sync(page["app"]) as client, client.events("/mentions/Grace") as events:
        client.post("/rooms/lobby", json={**HELLO, "text": "Hello @Ada"})
        client.post("/rooms/lobby", json=HELLO)
        assert read(events) == [HELLO]
        client.post("/logout/Grace")
        assert list(events) == []


def test_every_option_of_a_channel_has_its_default_on_the_page() -> None:
    text = CHANNELS.read_text()
    options = inspect.signature(Channels.channel).parameters
    for name, default in (("history", "1,000"), ("history_ttl", "3,600")):
        assert f"| `{name}` | {default} |" in text
        assert options[name].default == int(default.replace(",", ""))
    assert "| `history_bytes` | 4 MiB |" in text
    assert options["history_bytes"].default == 4 * 2**20
    assert '| `"gap"`, the default |' in text
    assert options["overflow"].default == "gap"
    for name in options.keys() - {"self", "name", "item_type"}:
        assert f"`{name}" in text or f"{name}=" in text


def test_the_runs_of_the_page_on_runs() -> None:
    page = run_blocks(RUNS)
    with connect_sync(page["app"]) as client:
        answer = client.post("/chats/a", params={"prompt": "Hi"})
        run_id = answer.headers["Run-ID"]
        data = re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)
        assert [json.loads(each) for each in data[:-1]] == ["You", "said:", "Hi"]
        assert client.get("/chats/a").json() is None
        url = f"/answers/{run_id}"
        with client.events(url) as events:
            first, *_, last = events
            assert json.loads(first.data) == "You"
            end = {"run": run_id, "end": "done", "reason": None}
            assert (last.type, json.loads(last.data)) == ("run-end", end)
        # The rest is there although the run has ended.
        with client.events(url, last_event_id=first.last_event_id) as events:
            assert json.loads(events.next().data) == "said:"
        assert client.delete("/chats/a").status_code == 200
        assert client.get("/answers/unknown").status_code == 404
        assert (
            client.get(f"/runs/{run_id}").json().items() >= {"state": "done", "events": 3}.items()
        )
        client.post("/users/7/chats/a", params={"prompt": "Hi"}).raise_for_status()


def test_every_option_of_runs_has_its_default_on_the_page() -> None:
    text = RUNS.read_text()
    options = inspect.signature(Channels.runs).parameters
    assert "| `ttl` | 3,600 s |" in text
    assert options["ttl"].default == 3_600
    assert "| `max_bytes` | 4 MiB |" in text
    assert options["max_bytes"].default == 4 * 2**20
    assert "| `shutdown_grace` | 20 s |" in text
    assert options["shutdown_grace"].default == 20


@pytest.mark.anyio
async def test_the_tests_on_the_page_on_testing_pass() -> None:
    tests = [value for name, value in run_blocks(TESTING).items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        if inspect.iscoroutinefunction(test):
            await test()
        else:
            await anyio.to_thread.run_sync(test)


@pytest.mark.once
def test_pytest_runs_the_page_on_testing_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_page.py").write_text("\n".join(blocks(TESTING)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.anyio
async def test_the_code_on_the_page_on_reading_reads(capsys: pytest.CaptureFixture[str]) -> None:
    page = run_blocks(READING)
    stream = [b'data: {"text": "Hel"}\n\n', b'data: {"text": "lo"}\n\ndata: [DONE]\n\n']
    async with connect(FakeUpstream(stream)) as client:
        assert await page["answer"](client.http) == "Hello"
        assert await page["prices"](client.http) == ['{"text": "Hel"}', '{"text": "lo"}', "[DONE]"]
    script = [b"retry: 1\nid: 1\ndata: a\n\n"], [b"event: e\ndata: b\n\n"]
    with scripted(*[[STREAM, *each] for each in script], nothing_to_come()) as server:
        await page["follow"](server.url)
    assert capsys.readouterr().out == "message a\ne b\n"


@pytest.mark.anyio
async def test_the_code_on_the_page_on_typed_events_does_what_the_page_says() -> None:
    page = run_blocks(TYPED)
    item, sold = {"name": "Plumbus", "price": 32.99}, {"name": "Plumbus", "buyer": "Ada"}
    async with connect(page["app"]) as client:
        async with client.http.stream("GET", "/market") as response:
            read = await page["read"](response.aiter_bytes())
        assert read == [page["Item"](**item), page["Sold"](**sold)]
        async with client.events("/events") as events:
            got = [await events.next() for _ in range(2)]
            assert [(each.type, each.last_event_id) for each in got] == [
                ("created", "1"),
                ("up", "2"),
            ]
        async with client.events("/market/live") as events:
            (await client.http.post("/market", json=item)).raise_for_status()
            event = await events.next()
            assert (event.type, json.loads(event.data)) == ("created", item)
