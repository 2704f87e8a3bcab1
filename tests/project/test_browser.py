"""A real browser reads the streams: Debian's Chromium, without a window.

With SSERPENT_SCREENSHOTS set to a directory, the last tests write pictures of the live pages
there. Look at them before keeping them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import servers
from browser import Browser
from servers import Server, until, uvicorn

# Installing the browser takes its time on a fresh machine.
pytestmark = pytest.mark.timeout(600)

SCREENSHOTS = os.environ.get("SSERPENT_SCREENSHOTS")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(uvicorn("browser_app:app"))
    yield server
    print(server.log)  # shown where a test has failed
    server.close()


@pytest.fixture
def browser(started_browser: Browser, server: Server) -> Iterator[Browser]:
    started_browser.open(server.url)
    yield started_browser
    started_browser.open("about:blank")


def seen(server: Server, path: str) -> list[str | None]:
    answer: list[str | None] = httpx.get(f"{server.url}/seen", params={"path": path}).json()
    return answer


def test_fields(browser: Browser) -> None:
    awkward = "é 漢字 🐍 \u2028\u2029\x85\x0b\x0c\ufeff\0"
    expected = [
        ("open", None, None),
        ("message", "plain", ""),
        ("greeting", "named", "first"),
        ("message", "one\ntwo\nthree\nfour\n\n  six", "first"),
        ("message", "id only here", "zwei €"),
        ("message", " leading and trailing ", "zwei €"),
        ("message", ": no comment\ndata: no field", "zwei €"),
        ("empty", "", "zwei €"),
        ("message", "the id is gone", ""),
    ]
    browser.listen("fields", "greeting", "empty")
    log = until(lambda: len(browser.log()) >= len(expected) + 2 and browser.log())

    assert [(each["type"], each["data"], each["id"]) for each in log[:-2]] == expected
    assert browser.run("return JSON.parse(arguments[0])", log[-2]["data"]) == {"unicode": awkward}
    assert log[-1]["data"] == awkward


def test_onopen_does_not_wait_for_an_event(browser: Browser) -> None:
    browser.run(
        "const source = new EventSource('silent');"
        "source.onopen = () => { window.opened = source.readyState; };"
    )

    assert until(lambda: browser.run("return window.opened")) == 1  # OPEN


# What it does is compared with its clock.
@pytest.mark.alone
@pytest.mark.parametrize(
    ("milliseconds", "at_least", "less_than"),
    # Chromium's own time is 3,000.
    [(100, 100, 2_900), (4_000, 4_000, 60_000)],
)
def test_retry(browser: Browser, milliseconds: int, at_least: int, less_than: int) -> None:
    browser.listen(f"retry?milliseconds={milliseconds}")
    until(lambda: len(browser.logged("open")) > 1)

    waited = browser.logged("open")[1]["at"] - browser.logged("error")[0]["at"]
    assert at_least - 5 <= waited < less_than  # timers may fire a little early


def test_reconnects_with_last_event_id_when_the_stream_is_cut(
    browser: Browser, server: Server
) -> None:
    browser.listen("resume")
    until(lambda: len(browser.data()) >= 12)

    assert browser.data() == [str(number) for number in range(12)]
    assert seen(server, "/resume") == [None, "2", "5", "8"]
    assert {each["state"] for each in browser.logged("error")} == {0}  # CONNECTING


def test_reconnects_with_last_event_id_when_the_server_restarts(
    browser: Browser, server: Server, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve(uvicorn("browser_app:app"))
    browser.open(first.url)
    browser.listen("restart")
    until(lambda: browser.data() == ["0"])
    # Nobody else is given its port in between.
    monkeypatch.setattr(servers, "give_back", lambda port: None)
    first.close()
    until(lambda: browser.logged("error"))
    monkeypatch.setattr(servers, "free_port", lambda: first.port)
    second = serve(uvicorn("browser_app:app"))
    until(lambda: browser.data() == ["0", "1"])

    assert seen(second, "/restart") == ["0"]


@pytest.mark.parametrize("status", [204, 403])
def test_does_not_reconnect_when_refused(browser: Browser, server: Server, status: int) -> None:
    before = len(seen(server, "/refused"))
    browser.listen(f"refused?status={status}")
    until(lambda: browser.log()[-1:] and browser.log()[-1]["state"] == 2)  # CLOSED

    # Ten times as long as the stream said to wait before reconnecting.
    browser.driver.execute_async_script("setTimeout(arguments[0], 500)")
    assert seen(server, "/refused")[before:] == [None, str(status)]
    assert browser.data() == ["once"]


def test_keep_alives_are_no_events(browser: Browser, server: Server) -> None:
    with httpx.stream("GET", f"{server.url}/pings") as response:
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if line == "data: after":
                break
    assert lines.count(": ping") > 2

    browser.listen("pings", "ping", "")
    until(lambda: "after" in browser.data())

    log = [(each["type"], each["data"], each["id"]) for each in browser.log()]
    assert log == [("open", None, None), ("message", "before", "7"), ("message", "after", "7")]


def test_many_events_in_order(browser: Browser) -> None:
    browser.listen("many")
    until(lambda: browser.run("return logs[0].length") > 10_000, timeout=60)

    assert browser.data() == [str(number) for number in range(10_000)]


def test_six_streams_on_one_origin(browser: Browser, server: Server) -> None:
    # As many as a browser opens to one origin over HTTP/1.1.
    keys = [f"tab-{number}" for number in range(6)]
    for key in keys:
        browser.listen(f"steps?key={key}")
    for received in range(1, 5):
        expected = [str(number) for number in range(received)]
        for number in range(6):
            until(lambda n=number, e=expected: browser.data(n) == e)
        for key in keys:
            httpx.post(f"{server.url}/step", params={"key": key}).raise_for_status()

    # With one of them closed, there is a connection for something else.
    browser.run("sources[0].close()")
    fetched = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('seen?path=/').then((answer) => done(answer.status))"
    )
    assert fetched == 200


# The live page


@pytest.fixture
def live_page(
    request: pytest.FixtureRequest, started_browser: Browser, all_examples: Server
) -> Iterator[Browser]:
    """A page of the examples: the one that the test's marker `page` names, or the first."""
    marker = request.node.get_closest_marker("page")
    started_browser.device(1280, 900)
    started_browser.open(f"{all_examples.url}/{marker.args[0] if marker else ''}")
    started_browser.driver.get_log("browser")
    yield started_browser
    assert started_browser.script_errors() == []
    started_browser.open("about:blank")


def text(browser: Browser, identifier: str) -> str:
    answer: str = browser.run("return document.getElementById(arguments[0]).innerText", identifier)
    return answer


def click(browser: Browser, identifier: str) -> None:
    browser.driver.find_element("id", identifier).click()


def shown_errors(browser: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('.error:not([hidden])')].map((e) => e.innerText)"
    return browser.run(script)  # type: ignore[no-any-return]


def ask(browser: Browser) -> None:
    click(browser, "token-start")
    until(lambda: text(browser, "token-start") == "Stop")
    until(lambda: text(browser, "token-start") == "Ask")


def test_the_page_shows_an_answer_as_it_comes(live_page: Browser) -> None:
    ask(live_page)

    assert text(live_page, "answer").startswith("You asked: “What is an event stream?”.")
    assert "émojis 🐍 and ελληνικά" in text(live_page, "answer")
    wire = text(live_page, "token-wire")
    assert wire.startswith(": a pretended model answers\n\nevent: token\ndata: ")
    assert wire.rstrip().endswith("event: done\ndata: [DONE]")
    count = live_page.run("return document.querySelectorAll('#token-events li').length")
    assert count == wire.count("data: ")
    assert shown_errors(live_page) == []


def run_answer(browser: Browser) -> str:
    return text(browser, "run-answer")


@pytest.mark.page("runs.html")
def test_an_answer_goes_on_over_a_reload_and_is_stopped_from_a_second_tab(
    live_page: Browser,
) -> None:
    driver = live_page.driver
    click(live_page, "run-start")
    until(lambda: " 3" in run_answer(live_page))
    driver.refresh()
    until(lambda: " 6" in run_answer(live_page))
    assert "process" in run_answer(live_page)
    first, url = driver.current_window_handle, driver.current_url
    driver.switch_to.new_window("tab")
    try:
        driver.get(url)
        until(lambda: " 6" in run_answer(live_page))
        click(live_page, "run-stop")
        until(lambda: text(live_page, "run-state") == "Ended: stopped")
    finally:
        driver.close()
        driver.switch_to.window(first)
    until(lambda: text(live_page, "run-state") == "Ended: stopped")
    kept = run_answer(live_page)
    numbers = kept.partition(":")[2].split()
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    driver.refresh()
    until(lambda: text(live_page, "run-state") == "Ended: stopped")
    assert run_answer(live_page) == kept
    assert shown_errors(live_page) == []


@pytest.mark.page("chat.html")
def test_a_chat_goes_on_over_a_cut_and_a_reload_and_is_stopped(live_page: Browser) -> None:
    def answer() -> str:
        return text(live_page, "chat-answer")

    until(lambda: text(live_page, "chat-state") == "")
    click(live_page, "chat-send")
    until(lambda: " 3" in answer())
    click(live_page, "chat-cut")
    until(lambda: text(live_page, "chat-state") == "Connecting again")
    until(lambda: text(live_page, "chat-state") == "Answers")
    until(lambda: " 8" in answer())
    live_page.driver.refresh()
    until(lambda: " 12" in answer())
    click(live_page, "chat-stop")
    until(lambda: text(live_page, "chat-state") == "Stopped")
    numbers = answer().partition(":")[2].split()
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    # The next message has an answer of its own.
    click(live_page, "chat-send")
    until(lambda: " 2" in answer() and " 12" not in answer())
    click(live_page, "chat-stop")
    until(lambda: text(live_page, "chat-state") == "Stopped")
    assert shown_errors(live_page) == []


def room(browser: Browser) -> None:
    """Waits until both clients of the room are there."""
    for name in ("ada", "grace"):
        until(lambda n=name: text(browser, f"{n}-state") == "Connected")


def write(browser: Browser, name: str, message: str) -> None:
    field = browser.driver.find_element("id", f"{name}-text")
    field.clear()
    field.send_keys(message)
    browser.driver.find_element("css selector", f"#{name}-form button").click()


def read(browser: Browser, name: str) -> list[str]:
    """What a client of the room sees: messages, without their numbers, and notes."""
    script = """
        const lines = document.querySelectorAll(`#${arguments[0]}-feed li`);
        const words = (line) => [...line.querySelectorAll(":not(.id)")].map((e) => e.innerText);
        return [...lines].map((line) => words(line).join(": "));
    """
    return browser.run(script, name)  # type: ignore[no-any-return]


def until_read(browser: Browser, name: str, lines: list[str]) -> None:
    until(lambda: read(browser, name)[-len(lines) :] == lines)


@pytest.mark.page("rooms.html")
def test_both_clients_of_the_room_read_what_one_writes(live_page: Browser) -> None:
    room(live_page)
    write(live_page, "ada", "Hello <b>Grace</b>")
    until_read(live_page, "grace", ["Ada: Hello <b>Grace</b>"])
    write(live_page, "grace", "Hello 🐍")

    for name in ("ada", "grace"):
        until_read(live_page, name, ["Grace: Hello 🐍"])
        assert read(live_page, name) == ["Ada: Hello <b>Grace</b>", "Grace: Hello 🐍"]
    assert shown_errors(live_page) == []


@pytest.mark.page("rooms.html")
def test_a_client_of_the_room_that_is_cut_off_gets_what_it_missed_once(live_page: Browser) -> None:
    room(live_page)
    write(live_page, "ada", "before")
    until_read(live_page, "grace", ["Ada: before"])
    click(live_page, "grace-cut")
    until_read(live_page, "grace", ["Cut off"])
    write(live_page, "ada", "meanwhile")
    write(live_page, "ada", "and again")
    until_read(live_page, "ada", ["Ada: meanwhile", "Ada: and again"])
    room(live_page)
    write(live_page, "ada", "after")
    until_read(live_page, "grace", ["Ada: after"])

    missed = ["Ada: meanwhile", "Ada: and again"]
    assert read(live_page, "grace") == ["Ada: before", "Cut off", "Back", *missed, "Ada: after"]
    assert shown_errors(live_page) == []


@pytest.mark.page("rooms.html")
def test_a_client_of_the_room_is_told_of_a_gap(live_page: Browser) -> None:
    room(live_page)
    write(live_page, "ada", "before")
    until_read(live_page, "grace", ["Ada: before"])
    click(live_page, "away")
    until_read(live_page, "grace", ["Ada: 8 of 8"])

    kept = [f"Ada: {number} of 8" for number in range(4, 9)]
    assert read(live_page, "grace") == ["Ada: before", "Away", "Gap: 3 missed", *kept]
    assert shown_errors(live_page) == []


@pytest.mark.page("rooms.html")
def test_a_client_of_the_room_with_a_forged_id_begins_anew(live_page: Browser) -> None:
    room(live_page)
    write(live_page, "ada", "one")
    write(live_page, "grace", "two")
    until_read(live_page, "grace", ["Ada: one", "Grace: two"])
    click(live_page, "forge")
    until_read(live_page, "grace", ["Reset: epoch", "Ada: one", "Grace: two"])

    assert read(live_page, "grace") == ["Reset: epoch", "Ada: one", "Grace: two"]
    assert shown_errors(live_page) == []


def stream_example(browser: Browser, number: int) -> None:
    browser.run(
        "const select = document.getElementById('example');"
        "select.selectedIndex = arguments[0];"
        "select.dispatchEvent(new Event('change'));",
        number,
    )
    click(browser, "example-start")


@pytest.mark.page("examples.html")
def test_the_page_streams_every_example(live_page: Browser) -> None:
    count = until(lambda: live_page.run("return document.getElementById('example').length"))
    events = []
    for number in range(count):
        stream_example(live_page, number)
        until(lambda: text(live_page, "example-start") == "Stream")
        events.append(until(lambda: text(live_page, "example-events")))
        assert "data: " in text(live_page, "example-wire")
    assert "[DONE]" in "".join(events)
    assert shown_errors(live_page) == []


def test_the_page_says_what_went_wrong(live_page: Browser) -> None:
    live_page.run("document.getElementById('prompt').value = 'x'.repeat(501)")
    click(live_page, "token-start")

    until(lambda: shown_errors(live_page))
    assert "at most 500 characters" in shown_errors(live_page)[0]


@pytest.mark.parametrize("number", range(3))
def test_the_parser_of_the_page(live_page: Browser, number: int) -> None:
    stream = [
        "\ufeffdata: a\r\rdata: b\r\n\r\ndata: c\n\n: no\ndata\ndata\nid: 1\n\n",
        "id: x\0y\nid: 2\ndata:  two\nevent: e\n\nevent: lost\n\nid\ndata:z\n\ndata: unfinished\n",
        "data: \u2028\x85\n\nretry: 5\nother: field\n\nevent: e\ndata: 1\r\ndata: 2\r\n\r\n",
    ][number]
    expected = [
        [["message", "a", ""], ["message", "b", ""], ["message", "c", ""], ["message", "\n", "1"]],
        [["e", " two", "2"], ["message", "z", ""]],
        [["message", "\u2028\x85", ""], ["e", "1\n2", ""]],
    ][number]
    script = """
        const [stream, done] = arguments;
        import("/sse.js").then(({ EventStreamParser }) => {
          const results = [];
          for (let cut = 0; cut <= stream.length; cut++) {
            const parser = new EventStreamParser();
            const pieces = [stream.slice(0, cut), "", stream.slice(cut)];
            const events = pieces.flatMap((piece) => parser.push(piece));
            results.push(events.map((e) => [e.type, e.data, e.lastEventId]));
          }
          done(results);
        }, (error) => done(String(error)));
    """
    results = live_page.driver.execute_async_script(script, stream)

    assert results == [expected] * (len(stream) + 1)


@pytest.mark.page("speed.html")
def test_the_page_runs_the_race(live_page: Browser, all_examples: Server) -> None:
    rust = httpx.get(f"{all_examples.url}/live/backend").json() == "rust"
    click(live_page, "race-start")
    until(lambda: text(live_page, "race-start") == "Run the race", timeout=60)

    assert shown_errors(live_page) == []
    assert "Medians" in text(live_page, "race-state")
    rows = live_page.run("return document.querySelectorAll('#results tr').length")
    lines = live_page.run("return document.querySelectorAll('#chart polyline').length")
    assert rows == lines == (3 if rust else 2)
    assert text(live_page, "results").splitlines()[0].endswith("1.0\N{MULTIPLICATION SIGN}")
    look(live_page, "speed")


def board(browser: Browser) -> tuple[dict[str, int], dict[str, int]]:
    """What the page shows: the figures, and the amounts of the order book."""
    script = """
        const rows = (selector, name, value) => Object.fromEntries(
          [...document.querySelectorAll(selector)].map((row) =>
            [row.querySelector(name).innerText, Number(row.querySelector(value).innerText)]));
        return [rows("#board-figures div", "dt", "dd"), rows("#board-book tr", "th", "td")];
    """
    figures, book = browser.run(script)
    return figures, book


def stored_board(file: Path) -> tuple[dict[str, int], dict[str, int]]:
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT kind, state FROM states WHERE name = 'market'").fetchall()
    states = {kind: json.loads(state) for kind, state in rows}
    return states["dashboard"], states["book"]


def connected(browser: Browser) -> None:
    until(lambda: text(browser, "board-state") == "Connected")


@pytest.mark.page("boards.html")
def test_a_board_whose_client_missed_too_much_gets_the_state(live_page: Browser) -> None:
    connected(live_page)
    until(lambda: text(live_page, "board-snapshots") == "2")
    click(live_page, "board-trade")
    until(lambda: text(live_page, "board-changes") == "100")
    click(live_page, "board-cut")
    until(lambda: text(live_page, "board-state") == "Connecting again")
    connected(live_page)
    # It missed nothing, so its id holds.
    assert text(live_page, "board-snapshots") == "2"
    click(live_page, "board-miss")
    until(lambda: text(live_page, "board-snapshots") == "4", timeout=60)
    figures, book = board(live_page)
    click(live_page, "board-trade")
    until(lambda: text(live_page, "board-changes") == "200")
    assert sum(board(live_page)[1].values()) > sum(book.values())
    assert len(figures) == 3
    assert shown_errors(live_page) == []
    look(live_page, "boards")


def test_four_boards_equal_what_is_stored_after_their_server_was_killed_twice(
    started_browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back = servers.give_back
    # Nobody else is given its port in between.
    monkeypatch.setattr(servers, "give_back", lambda port: None)
    file, port = tmp_path / "boards.sqlite", servers.free_port()
    directory = str(servers.TESTS.parent / "examples")
    command = uvicorn("examples_app:app", "--app-dir", directory)

    def started() -> Server:
        return Server(command, port=port, BOARDS_FILE=str(file))

    driver, server = started_browser.driver, started()
    first, tabs = driver.current_window_handle, []
    started_browser.device(1280, 900)
    try:
        for _ in range(4):
            driver.switch_to.new_window("tab")
            tabs.append(driver.current_window_handle)
            started_browser.open(f"{server.url}/boards.html")
            connected(started_browser)
        with Writer(f"{server.url}/live/boards/market") as writer:
            for _ in range(2):
                before = writer.written
                until(lambda before=before: writer.written > before + 30)
                server.process.kill()  # while it writes
                server.close()
                server = started()
            before = writer.written
            until(lambda: writer.written > before + 30)
        assert writer.failed > 0
        figures, book = stored_board(file)
        assert sum(book.values()) >= writer.written
        for tab in tabs:
            driver.switch_to.window(tab)
            until(lambda: board(started_browser) == (figures, book))
            # One that comes back late has seen two of the three servers.
            assert text(started_browser, "board-snapshots") in ("4", "6")
            assert shown_errors(started_browser) == []
    finally:
        for tab in tabs:
            driver.switch_to.window(tab)
            driver.close()
        driver.switch_to.window(first)
        server.close()
        give_back(port)


class Writer:
    """Trades as fast as the server takes it, in a thread, for as long as a `with` block lasts.

    Attributes:
        written: How many trades the server has confirmed.
        failed: How many it has not.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.written = self.failed = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        with httpx.Client() as client:
            while not self._is_over.is_set():
                number += 1
                trade = {
                    "figures": {f"figure {number % 5}": number},
                    "order": {"price": 100 + number % 7, "amount": 1},
                }
                try:
                    client.post(self._url, json=trade).raise_for_status()
                    self.written += 1
                except httpx.TransportError:
                    self.failed += 1
                    self._is_over.wait(0.02)


@pytest.mark.page("rooms.html")
def test_the_page_of_the_room_looks_good(live_page: Browser) -> None:
    room(live_page)
    write(live_page, "ada", "Is anybody here?")
    write(live_page, "grace", "Yes, I am")
    until_read(live_page, "ada", ["Grace: Yes, I am"])
    click(live_page, "away")
    until_read(live_page, "grace", ["Ada: 8 of 8"])
    look(live_page, "page")


@pytest.mark.parametrize("name", ["", "chat.html", "runs.html", "boards.html", "examples.html"])
def test_the_other_pages_look_good(live_page: Browser, all_examples: Server, name: str) -> None:
    live_page.open(f"{all_examples.url}/{name}")
    until(lambda: text(live_page, "backend"))
    if not name:
        ask(live_page)
    current = "return document.querySelector('nav [aria-current]').getAttribute('href')"
    assert live_page.run(current) == (name or "./")
    links = live_page.run("return [...document.querySelectorAll('nav a')].map((a) => a.href)")
    assert {httpx.get(link).status_code for link in links} == {200}
    look(live_page, name.removesuffix(".html") or "tokens")


def look(browser: Browser, name: str) -> None:
    """Looks at a page in light and dark, on a screen and a phone: nothing is wider than that."""
    for kind, width, height, scheme in (
        ("light", 1280, 720, "light"),
        ("dark", 1280, 720, "dark"),
        ("phone", 375, 812, "light"),
        ("phone-dark", 375, 812, "dark"),
    ):
        browser.device(width, height, scheme)
        overflow = browser.run("return document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        if SCREENSHOTS:
            browser.run("scrollTo(0, 0); document.activeElement.blur()")
            browser.screenshot(Path(SCREENSHOTS) / f"{name}-{kind}.png", whole=width > 600)
