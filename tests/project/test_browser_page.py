"""The scripts of `docs/browser.md`, in a real browser, against the application of that page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from browser import Browser
from servers import Server, until, uvicorn

pytestmark = pytest.mark.timeout(600)

COLLECT = """
window.shown = [];
window.show = (message) => shown.push(message);
window.showHole = (missed) => shown.push(`gap ${missed}`);
window.loadAnew = () => shown.push("reset");
window.showError = (text) => shown.push(text);
window.freshToken = async () => "secret";
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(uvicorn("browser_page_app:app"))
    yield server
    print(server.log)  # shown where a test has failed
    server.close()


@pytest.fixture
def browser(started_browser: Browser, server: Server) -> Iterator[Browser]:
    started_browser.open(server.url)
    started_browser.driver.get_log("browser")
    started_browser.run(COLLECT)
    yield started_browser
    assert [each for each in started_browser.script_errors() if "status of" not in each] == []
    started_browser.open("about:blank")


def load(browser: Browser, script: str) -> None:
    """Runs a script as a module, to its end or to its first wait for the network."""
    browser.run("import(arguments[0]).catch((error) => shown.push(String(error)))", script)


def shown(browser: Browser) -> list[Any]:
    return browser.run("return shown")  # type: ignore[no-any-return]


def write(server: Server, room: str, text: str) -> str:
    url = f"{server.url}/rooms/{room}"
    return httpx.post(url, json={"author": "Ada", "text": text}).raise_for_status().json()


def write_until_read(browser: Browser, server: Server, room: str, text: str) -> None:
    """Writes until the page shows it: it may not have subscribed yet."""

    def is_read() -> bool:
        write(server, room, text)
        return any(isinstance(each, dict) and each["text"] == text for each in shown(browser))

    until(is_read)


@pytest.mark.parametrize("script", ["showHole-of-the-page.js", "stop-of-the-page.js"])
def test_an_event_source_shows_what_is_published(
    browser: Browser, server: Server, script: str
) -> None:
    load(browser, f"/{script}")
    write_until_read(browser, server, "lobby", script)


def test_listen_goes_on_after_an_answer_that_made_an_event_source_give_up(
    browser: Browser, server: Server
) -> None:
    first = write(server, "listen", "one")
    browser.run(
        """
        const [after] = arguments;
        const Real = EventSource;
        window.asked = [];
        // The first is answered by a proxy that does not reach the application.
        window.EventSource = class extends Real {
          constructor(url) {
            super(asked.length ? url : "/nothing-there");
            asked.push(String(url));
          }
        };
        import("/listen.js").then(({ listen }) => {
          listen(`/rooms/listen?last_event_id=${after}`, (event) => show(JSON.parse(event.data)));
        });
        """,
        first,
    )
    write(server, "listen", "two")
    until(lambda: [each["text"] for each in shown(browser)] == ["two"])
    assert len(browser.run("return asked")) == 2


def test_a_chat_by_post(browser: Browser, server: Server) -> None:
    answer = browser.driver.execute_async_script(
        """
        const done = arguments[0];
        const tokens = [];
        import("/onToken-of-the-page.js")
          .then(({ ask }) => ask("Hi there", (token) => tokens.push(token)))
          .then(() => done(tokens.join("")), (error) => done(String(error)));
        """
    )
    assert answer == "You said: Hi there "


def test_a_chat_that_is_refused_says_why(browser: Browser) -> None:
    answer = browser.driver.execute_async_script(
        """
        const done = arguments[0];
        import("/onToken-of-the-page.js")
          .then(({ ask }) => ask({}, () => {}))
          .then(() => done("no error"), (error) => done(String(error)));
        """
    )
    assert answer == "Error: Input should be a valid string"


def test_follow_sends_its_header_and_reads(browser: Browser, server: Server) -> None:
    load(browser, "/freshToken-of-the-page.js")
    write_until_read(browser, server, "lobby", "in private")


def test_follow_reconnects_with_its_id_and_leaves_with_its_loop(
    browser: Browser, server: Server
) -> None:
    first = write(server, "cut", "one")
    write(server, "cut", "two")
    answer = browser.driver.execute_async_script(
        """
        const [first, done] = arguments;
        const real = fetch;
        const asked = [];
        window.fetch = async (url, options) => {
          asked.push(options.headers.get("Last-Event-ID"));
          if (asked.length === 1) return new Response("id: " + first + "\\n\\ndata: cut", {
            headers: { "Content-Type": "text/event-stream" },
          });
          if (asked.length === 2) return new Response("", { status: 502 });
          return real(url, options);
        };
        const headers = () => ({ Authorization: "Bearer secret" });
        (async () => {
          const { follow } = await import("/follow.js");
          for await (const event of follow("/private/cut", { headers })) {
            return [asked, JSON.parse(event.data).text];
          }
        })().then(done, (error) => done(String(error)));
        """,
        first,
    )
    assert answer == [[None, first, first], "two"]


def test_follow_throws_where_the_server_refuses(browser: Browser) -> None:
    answer = browser.driver.execute_async_script(
        """
        const done = arguments[0];
        (async () => {
          const { follow } = await import("/follow.js");
          const headers = { Authorization: "Bearer wrong" };
          for await (const event of follow("/private/cut", { headers: () => headers })) {
            return event;
          }
        })().then(done, (error) => done(String(error)));
        """
    )
    assert answer == "Error: This is not for you."


def test_the_hook_has_the_newest_events_and_closes_with_its_url(
    browser: Browser, server: Server
) -> None:
    browser.run(
        """
        const Real = EventSource;
        window.sources = [];
        window.EventSource = class extends Real {
          constructor(url) {
            super(url);
            sources.push(this);
          }
        };
        Promise.all([import("react"), import("/use-events.js")]).then(([{ render }, hook]) => {
          window.room = (name) => render(() => hook.useEvents(`/rooms/${name}`, 2));
          room("hook");
        });
        """
    )
    until(lambda: browser.run("return window.room?.('hook').state") == "open")
    for text in ("one", "two", "three"):
        write(server, "hook", text)
    read = "return room('hook').events.map((event) => event.text)"
    until(lambda: browser.run(read) == ["two", "three"])

    browser.run("room('other')")
    assert browser.run("return sources.map((source) => source.readyState)")[0] == 2  # CLOSED
    assert browser.run("return room('other').events") == []


def test_one_tab_reads_for_all_and_the_next_goes_on(browser: Browser, server: Server) -> None:
    driver = browser.driver
    count = "window.opened = 0; const Real = EventSource; window.EventSource = class extends Real {"
    count += " constructor(url) { super(url); opened++; } };"
    first = driver.current_window_handle
    browser.run(count)
    load(browser, "/stopAll-of-the-page.js")
    write_until_read(browser, server, "lobby", "to the first")
    driver.switch_to.new_window("tab")
    try:
        browser.open(server.url)
        browser.run(COLLECT + count)
        load(browser, "/stopAll-of-the-page.js")
        write_until_read(browser, server, "lobby", "to both")
        second = driver.current_window_handle
        assert browser.run("return opened") == 0
        driver.switch_to.window(first)
        until(lambda: any(each["text"] == "to both" for each in shown(browser)))
        browser.run("stopAll()")
        driver.switch_to.window(second)
        until(lambda: browser.run("return opened") == 1)
        write_until_read(browser, server, "lobby", "to the second")
    finally:
        driver.close()
        driver.switch_to.window(first)


def test_the_page_for_a_run_survives_a_reload(browser: Browser, server: Server) -> None:
    browser.open(f"{server.url}/run.html")
    browser.run("document.querySelector('#prompt').value = 'one two three'")
    browser.driver.find_element("css selector", "#ask button").click()
    text = "return document.getElementById('answer').innerText"
    until(lambda: browser.run(text).startswith("You said"))
    browser.driver.refresh()
    until(lambda: browser.run(text) == "You said: one two three (done)")
