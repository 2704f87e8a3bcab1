"""The built documentation: as a phone shows it, and what its search finds."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from browser import Browser
from pages import PROJECT

pytest.importorskip("zensical", reason="the generator of the documentation is not installed")
pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]

TOOL = runpy.run_path(str(PROJECT / "tools" / "docs.py"))

LOOK = r"""
const broken = [];
for (const code of document.querySelectorAll("article :not(pre) > code")) {
  const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  const words = code.innerText.split(/\s+/);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    for (const part of text.data.matchAll(/\S+/g)) {
      const range = document.createRange();
      range.setStart(text, part.index);
      range.setEnd(text, part.index + part[0].length);
      const boxes = [...range.getClientRects()].filter((box) => box.width > 1);
      const lines = new Set(boxes.map((box) => Math.round(box.top)));
      if (lines.size > 1) broken.push(words.find((word) => word.includes(part[0])) ?? part[0]);
    }
  }
}
const wide = [...document.querySelectorAll("article table")]
  .filter((table) => table.getBoundingClientRect().right > innerWidth)
  .map((table) => table.innerText.slice(0, 80));
const small = [...document.querySelectorAll("article img[src$='.svg']")]
  .filter((image) => image.width < 0.7 * image.naturalWidth)
  .map((image) => image.src);
return { broken, wide, small, page: document.documentElement.scrollWidth };
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documentation")
    shutil.copytree(PROJECT / "docs", root / "docs")
    shutil.copytree(PROJECT / "benches", root / "benches", ignore=lambda *_: ["results"])
    shutil.copy(PROJECT / "zensical.toml", root)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    TOOL["fit_phones"](root / "site")
    return root / "site"


@pytest.fixture
def url(site: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_page_can_be_read_on_a_phone(site: Path, url: str, started_browser: Browser) -> None:
    """No page and no table is wider than the phone, no word of code is broken, and the text of
    drawings is not small."""
    started_browser.device(375, 800)
    faults = {}
    pages = [page.parent.relative_to(site).as_posix() for page in site.rglob("index.html")]
    for path in sorted(pages):
        started_browser.open(f"{url}/{path}/")
        seen = started_browser.run(LOOK)
        broken = [word for word in seen["broken"] if len(word) <= TOOL["LONGEST_WORD"]]
        faults[path] = [*broken, *seen["wide"], *seen["small"]]
        if seen["page"] > 375:
            faults[path].append(f"the page is {seen['page']} pixels wide")
    started_browser.open("about:blank")

    assert len(faults) > 20
    assert {path: found for path, found in faults.items() if found} == {}


def test_a_wide_table_has_the_names_of_its_columns_in_its_cells() -> None:
    def table(heads: str, *rows: str) -> str:
        def row(cell: str, cells: str) -> str:
            inner = "".join(f"<{cell}>{text}</{cell}>" for text in cells.split("|"))
            return f"<tr>{inner}</tr>"

        body = "".join(row("td", cells) for cells in rows)
        return f"<table><thead>{row('th', heads)}</thead><tbody>{body}</tbody></table>"

    named = TOOL["with_columns_named"]
    two = table("Option|Effect", "a|b")
    assert named(two) == two
    numbers = named(table("|Rust|pure & simple", "burst|109x|45x"))
    assert '<td>burst</td><td data-column="Rust">109x' in numbers
    assert '<td data-column="pure &amp; simple">45x' in numbers
    assert 'data-cells="short"' in numbers
    sentence = "Send a keep-alive after so many seconds."
    options = named(table("Option|Default|Effect", f"ping|15|{sentence}"))
    assert f'<td data-column="Default">15</td><td>{sentence}' in options
    assert 'data-cells="long"' in options
    rules = named(table("Rule|Meaning|Test", f"D1|{sentence}|{sentence}"))
    assert f'<td>{sentence}</td><td data-column="Test">' in rules


def test_links_say_where_they_go(site: Path) -> None:
    vague = {"here", "more", "this", "this page", "link", "see", "there"}
    found = {
        f"{page.parent.relative_to(site)}: {text}"
        for page in site.rglob("index.html")
        for text in re.findall(r"<a [^>]*>([^<]*)</a>", page.read_text(encoding="utf-8"))
        if text.strip().lower() in vague
    }
    assert found == set()


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("authentication", "security/"),
        ("broadcast", "channels/"),
        ("heartbeat", "options/"),
        ("timeout", "options/"),
        ("Kubernetes", "deployment/"),
        ("CancelledError", "troubleshooting/"),
        ("CORS", "security/"),
        ("nginx", "deployment/"),
        ("React", "browser/"),
        ("WebSocket", "tutorial/"),
        ("multiple workers", "deployment/"),
        ("memory leak", "troubleshooting/"),
        ("useChat", "llm/"),
        ("reconnect", "browser/"),
        ("disconnect", "tutorial/"),
        ("POST", "tutorial/"),
        ("test client", "testing/"),
    ],
)
def test_the_search_finds(site: Path, words: str, page: str) -> None:
    """A section of the page that answers has the word in its text or its title."""
    sections = json.loads((site / "search.json").read_text(encoding="utf-8"))["items"]
    found = [
        section["location"]
        for section in sections
        if words.lower() in f"{section['title']} {section['text']}".lower()
    ]
    assert any(location.startswith(page) for location in found), found
