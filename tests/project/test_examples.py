"""Each example on a real uvicorn, read back by httpx-sse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import psutil
import pytest
from httpx_sse import EventSource, connect_sse

import sserpent
from redis_server import RedisServer
from servers import Server, uvicorn

EXAMPLES = Path(__file__).parents[2] / "examples"


class Event(NamedTuple):
    """One event as the client has it; httpx-sse's own class has no equality."""

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None

    def json(self) -> Any:
        return json.loads(self.data)


def events_of(source: EventSource) -> Iterator[Event]:
    for event in source.iter_sse():
        yield Event(event.event, event.data, event.id, event.retry)


def read(url: str, method: str = "GET", **request: Any) -> list[Event]:
    with httpx.Client() as client, connect_sse(client, method, url, **request) as source:
        assert source.response.status_code == 200
        assert source.response.headers["content-type"].startswith("text/event-stream")
        return list(events_of(source))


def message(data: Any, id: str = "") -> Event:
    """An unnamed event whose data is JSON."""
    return Event(data=compact(data), id=id)


def compact(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


PLANETS = [
    message({"name": "Earth", "moons": 1}),
    message({"name": "Mars", "moons": 2}),
    message({"name": "Neptune", "moons": 16}),
]
READINGS = [
    message({"sensor": "cellar", "celsius": 11.5}),
    message({"sensor": "kitchen", "celsius": 21.0}),
    message({"sensor": "attic", "celsius": 27.25}),
]
ORDERS = [
    message({"order": 1, "placed": "2025-03-01"}),
    message(["order", 2]),
    message("no more orders"),
]
COUNTDOWN = [
    message({"seconds": 3}),
    message({"seconds": 2}),
    message({"seconds": 1}),
    message("lift-off"),
]
PRICES = [
    Event("price", compact({"symbol": "SNEK", "price": price}), number, 5000)
    for number, price in [("1", 101.5), ("2", 99.25), ("3", 103.0)]
]
AUCTION = [
    *(
        Event("bid", compact({"bidder": bidder, "amount": amount}))
        for bidder, amount in [("Ada", 10), ("Grace", 15), ("Ada", 25)]
    ),
    Event("sold", compact({"to": "Ada"})),
]
LOG = [
    Event("message", "12:00:01 INFO  listening on port 8000"),
    Event("message", "12:00:07 WARN  slow query: 1.9 s"),
    Event("message", "12:00:09 ERROR upstream closed the connection\n  while reading the answer"),
    Event("message", "[DONE]"),
]
CHAPTERS = [
    message({"title": "The egg"}, id="0"),
    message({"title": "The nest"}, id="1"),
    message({"title": "The long winter"}, id="2"),
    message({"title": "The first skin"}, id="3"),
]
ANSWER = [
    Event("token", '"Hello"'),
    Event("token", '"wörld"'),
    Event("done", "[DONE]"),
]
CHAT = {"method": "POST", "json": {"text": "Hello wörld"}}

CASES: list[tuple[str, str, dict[str, Any], list[Event]]] = [
    ("async_generator", "/planets", {}, PLANETS),
    ("sync_generator", "/readings", {}, READINGS),
    ("no_annotation", "/orders", {}, ORDERS),
    ("no_annotation_sync", "/countdown", {}, COUNTDOWN),
    ("event_fields", "/prices", {}, PRICES),
    ("typed_events", "/auction", {}, AUCTION),
    ("raw_data", "/log", {}, LOG),
    ("resume", "/chapters", {}, CHAPTERS),
    ("post_chat", "/chat", CHAT, ANSWER),
]


@pytest.mark.parametrize(
    ("name", "path", "request_", "events"), CASES, ids=[case[0] for case in CASES]
)
def test_example(
    serve: Any, name: str, path: str, request_: dict[str, Any], events: list[Event]
) -> None:
    server = serve(uvicorn(f"{name}:app"), EXAMPLES)

    assert read(server.url + path, **request_) == events
    assert read(server.url + path, **request_) == events


def test_resume(serve: Any) -> None:
    server = serve(uvicorn("resume:app"), EXAMPLES)

    for last in range(len(CHAPTERS)):
        headers = {"Last-Event-ID": str(last)}
        assert read(server.url + "/chapters", headers=headers) == CHAPTERS[last + 1 :]


def test_the_comment_is_on_the_wire(serve: Any) -> None:
    server = serve(uvicorn("event_fields:app"), EXAMPLES)

    assert httpx.get(server.url + "/prices").text.startswith(": prices of today\n\n")


def test_the_app_has_every_example(all_examples: Server) -> None:
    url = all_examples.url
    for name, path, request, events in CASES:
        assert read(f"{url}/examples/{name}{path}", **request) == events

    listed = httpx.get(f"{url}/examples").json()

    names = {example["name"] for example in listed}
    assert names == {
        *(case[0] for case in CASES),
        "answers",
        "boards",
        "chat",
        "notifications",
        "rooms",
    }
    for example in listed:
        if example["posts"]:
            continue  # the demo and the page read so many events of these
        request = {"headers": example["headers"]}
        if example["body"] is not None:
            request["json"] = example["body"]
        assert read(url + example["url"], example["method"], **request)


def messages(source: EventSource) -> Iterator[Event]:
    """Events with data: httpx-sse takes a block that has an id alone for one more."""
    return (event for event in events_of(source) if event.data)


def post(url: str, *bodies: Any) -> list[str]:
    """Posts each, and returns the ids of the events that it became."""
    return [httpx.post(url, json=body).raise_for_status().json() for body in bodies]


def test_rooms(serve: Any) -> None:
    lobby = serve(uvicorn("rooms:app"), EXAMPLES).url + "/rooms/lobby"
    said = [{"author": "Ada", "text": "Anybody?"}, {"author": "Grace", "text": "Jo 🐍"}]
    with httpx.Client() as client:
        with (
            connect_sse(client, "GET", lobby) as first,
            connect_sse(client, "GET", lobby) as second,
        ):
            ids = post(lobby, *said)
            expected = list(map(message, said, ids))
            for source in (first, second):
                events = messages(source)
                assert [next(events), next(events)] == expected
            assert httpx.post(lobby, json={"author": "Ada"}).status_code == 422

        post(f"{lobby}2", *said)
        for way in ({"headers": {"Last-Event-ID": ids[0]}}, {"params": {"last_event_id": ids[0]}}):
            with connect_sse(client, "GET", lobby, **way) as source:
                assert next(messages(source)) == expected[1]


def test_notifications(serve: Any) -> None:
    url = serve(uvicorn("notifications:app"), EXAMPLES).url
    texts = [{"text": "one"}, {"text": "two"}]
    ids = post(f"{url}/users/ada/notifications", *texts)
    post(f"{url}/users/grace/notifications", {"text": "for Grace"})
    stream = f"{url}/users/ada/notifications"
    with httpx.Client() as client, connect_sse(client, "GET", stream) as source:
        httpx.delete(f"{url}/users/grace/session").raise_for_status()
        httpx.delete(f"{url}/users/ada/session").raise_for_status()
        received = list(messages(source))

    assert received == list(map(message, texts, ids))


def test_notifications_on_redis(serve: Any, kept_redis: RedisServer) -> None:
    """Two tabs on two servers, and a worker without one."""
    environment = {"REDIS_URL": kept_redis.url}
    urls = [
        serve(uvicorn("notifications_on_redis:app"), EXAMPLES, **environment).url for _ in range(2)
    ]
    tabs = [f"{url}/users/ada/notifications" for url in urls]

    def work(user: str, text: str) -> str:
        command = [sys.executable, "notify.py", user, text]
        done = subprocess.run(
            command, cwd=EXAMPLES, env={**os.environ, **environment}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    said = [{"text": text} for text in ("posted", "worked", "missed")]
    with httpx.Client() as client:
        with connect_sse(client, "GET", tabs[0]) as one, connect_sse(client, "GET", tabs[1]) as two:
            [first] = post(tabs[1], said[0])
            work("grace", "for Grace")
            second = work("ada", "worked")
            for source in (one, two):
                events = messages(source)
                assert [next(events) for _ in range(2)] == [
                    message(said[0], first),
                    message(said[1], second),
                ]
        third = work("ada", "missed")
        for tab in tabs:
            with connect_sse(client, "GET", tab, headers={"Last-Event-ID": second}) as source:
                assert next(messages(source)) == message(said[2], third)


def test_the_room_of_the_page_says_what_is_missing(all_examples: Server) -> None:
    url = f"{all_examples.url}/live/rooms/attic"
    said = [{"author": "Ada", "text": f"{number}"} for number in range(8)]
    ids = post(url, *said)
    query = {"client": "grace", "last_event_id": ids[0]}
    with httpx.Client() as client:
        with connect_sse(client, "GET", url, params=query) as source:
            events = messages(source)
            gap = next(events)
            assert (gap.event, gap.id) == ("gap", ids[2])
            assert gap.json() == {"reason": "trimmed", "missed": 2, "from": ids[0], "to": ids[2]}
            expected = [message(said[number], ids[number]) for number in range(3, 8)]
            assert [next(events) for _ in expected] == expected
            httpx.post(f"{all_examples.url}/live/cut?client=grace").raise_for_status()
            assert list(events) == []

        with connect_sse(client, "GET", url, params={**query, "last_event_id": "0"}) as source:
            events = messages(source)
            reset = next(events)
            assert (reset.event, reset.json()) == ("reset", {"reason": "unknown"})
            assert [next(events) for _ in expected] == expected


def test_a_board_sends_its_states_and_then_each_change_once(serve: Any, tmp_path: Path) -> None:
    environment = {"BOARDS_FILE": str(tmp_path / "boards.sqlite")}
    server = serve(uvicorn("app:app"), EXAMPLES, **environment)
    board = f"{server.url}/live/boards/market"
    trade = {"figures": {"Visitors": 7.5}, "order": {"price": 101, "amount": 50}}
    with httpx.Client() as client:
        with connect_sse(client, "GET", board) as source:
            events = events_of(source)
            assert [(each.event, each.json()) for each in (next(events), next(events))] == [
                ("dashboard", {}),
                ("book", {}),
            ]
            for _ in range(2):
                client.post(board, json=trade).raise_for_status()
            changes = [next(events) for _ in range(4)]
        # Across channels there is no order.
        assert sorted((each.event, compact(each.json())) for each in changes) == [
            *2 * [("figures", compact({"Visitors": 7.5}))],
            *2 * [("order", compact({"price": 101, "amount": 50}))],
        ]

        server.process.kill()
        again = serve(uvicorn("app:app"), EXAMPLES, **environment)
        board = f"{again.url}/live/boards/market"
        with connect_sse(client, "GET", board, headers={"Last-Event-ID": changes[-1].id}) as source:
            events = events_of(source)
            assert [(each.event, each.json()) for each in (next(events), next(events))] == [
                ("dashboard", {"Visitors": 7.5}),
                ("book", {"101": 100}),
            ]


def test_a_change_that_was_published_and_not_stored_is_taken_back(
    serve: Any, kept_redis: RedisServer, tmp_path: Path
) -> None:
    """A process is killed between the two; another one goes on with what is stored."""
    environment = {"BOARDS_FILE": str(tmp_path / "boards.sqlite"), "REDIS_URL": kept_redis.url}
    url = serve(uvicorn("app:app"), EXAMPLES, **environment).url
    board = f"{url}/live/boards/killed"
    script = (
        "import asyncio, os\n"
        "from sserpent.channels import Channels\n"
        "async def main():\n"
        "    async with Channels(os.environ['REDIS_URL']) as channels:\n"
        "        book = channels.channel('book', keyed=True, history=100)\n"
        "        await book.publish({'price': 1, 'amount': 9}, key='killed', event='order')\n"
        "asyncio.run(main())"
    )
    with httpx.Client() as client, connect_sse(client, "GET", board) as source:
        events = events_of(source)
        assert [next(events).event, next(events).event] == ["dashboard", "book"]
        command = [sys.executable, "-c", script]
        subprocess.run(command, cwd=EXAMPLES, env={**os.environ, **environment}, check=True)
        assert next(events).json() == {"price": 1, "amount": 9}
        client.post(board, json={"order": {"price": 2, "amount": 3}}).raise_for_status()
        healed = next(events)
    assert (healed.event, healed.json()) == ("book", {"2": 3})


def test_tokens(all_examples: Server) -> None:
    events = read(all_examples.url + "/live/tokens", "POST", json={"text": "what is a stream?"})

    answer = "".join(event.json() for event in events if event.event == "token")
    assert answer.startswith("You asked: “what is a stream?”.\n\n")
    assert "🐍" in answer
    assert events[-1] == Event("done", "[DONE]")


def test_a_prompt_that_is_too_long_is_refused(all_examples: Server) -> None:
    answer = httpx.post(all_examples.url + "/live/tokens", json={"text": "x" * 501})

    assert answer.status_code == 422


# Beside others a server may have no turn for as long as a sample takes.
@pytest.mark.alone
def test_the_race_runs_every_contender_and_only_once_at_a_time(all_examples: Server) -> None:
    url = all_examples.url + "/live/race"
    rust = httpx.get(all_examples.url + "/live/backend").json() == "rust"
    names = ["fastapi.sse", "sserpent, pure Python", *(["sserpent, Rust"] if rust else [])]
    with httpx.Client(timeout=60) as client, connect_sse(client, "GET", url) as source:
        events = events_of(source)
        assert next(events).json()["contenders"] == names
        assert client.get(url).status_code == 409
        *samples, done = events

    assert done.event == "done"
    assert {event.event for event in samples} == {"sample"}
    assert list(dict.fromkeys(event.json()["contender"] for event in samples)) == names
    assert all(event.json()["events_per_second"] > 0 for event in samples)


# The demo


def run_demo(
    directory: Path, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs it without a terminal; whatever it starts has to end with it.

    Args:
        command: What Python is to run, `demo.py` where nothing is said.
    """
    mark = uuid4().hex
    done = subprocess.run(
        [sys.executable, *(command or ["demo.py"])],
        cwd=directory,
        env={**os.environ, **environment, "DEMO_MARK": mark},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert processes_with("DEMO_MARK", mark) == []
    return done


def processes_with(variable: str, content: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == content:
                found.append(process)
        except psutil.Error:  # noqa: PERF203
            pass  # it has ended, or is none of ours
    return found


def rate_of(contender: str, output: str) -> int:
    line = next(line for line in output.splitlines() if line.strip().startswith(contender))
    return int(line.removeprefix(f"  {contender}").split()[0].replace(",", ""))


@pytest.mark.alone  # it measures
@pytest.mark.once  # both cores
def test_the_demo_streams_every_example_and_measures(all_examples: Server) -> None:
    # A burst of a fifth: that of `fastapi.sse` takes more than a second otherwise.
    done = run_demo(EXAMPLES, "-c", "import demo; demo.EVENTS = 4_000; demo.main()")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"backend: {sserpent.BACKEND}" in done.stdout
    for example in httpx.get(f"{all_examples.url}/examples").json():
        assert f"{example['method']} {example['url']}" in done.stdout
    assert '"author":"Grace","text":"All who read the lobby are"' in done.stdout
    assert ': prices of today\n   event: price\n   data: {"symbol":"SNEK"' in done.stdout
    # The engine is what makes the difference, so the pure core has to be faster too.
    assert rate_of("sserpent, pure Python", done.stdout) > 2 * rate_of("fastapi.sse", done.stdout)
    if sserpent.BACKEND == "rust":
        assert rate_of("sserpent, Rust", done.stdout) > 4 * rate_of("fastapi.sse", done.stdout)


@pytest.mark.once  # it names its backend
def test_a_half_of_the_demo_shows_the_examples_until_the_core_in_rust_is_built() -> None:
    done = run_demo(EXAMPLES, "demo.py", "examples", SSERPENT_PURE="1")

    assert (done.returncode, done.stderr) == (0, "")
    assert "pure Python, until the core in Rust is built" in done.stdout
    assert '"author":"Grace","text":"All who read the lobby are"' in done.stdout
    assert "events/s" not in done.stdout


@pytest.mark.once  # it names its backend
def test_the_demo_fails_when_a_stream_breaks(tmp_path: Path) -> None:
    examples = shutil.copytree(EXAMPLES, tmp_path / "examples")
    file = examples / "raw_data.py"
    file.write_text(file.read_text().replace("[DONE]", "\\ud800"))

    done = run_demo(examples, SSERPENT_PURE="1")

    assert done.returncode == 1
    assert "pure Python, because SSERPENT_PURE=1 is set" in done.stdout
    assert "The demo failed: " in done.stderr.splitlines()[-1]


@pytest.mark.once  # no event is sent
def test_the_demo_fails_when_the_server_does_not_start(tmp_path: Path) -> None:
    examples = shutil.copytree(EXAMPLES, tmp_path / "examples")
    with (examples / "app.py").open("a") as file:
        # Only the server imports uvicorn.
        file.write("import sys\nif 'uvicorn' in sys.modules: raise RuntimeError('broken')\n")

    done = run_demo(examples)

    assert done.returncode == 1
    assert "RuntimeError: broken" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("The demo failed: the server of app:app")
