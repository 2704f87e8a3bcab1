"""The built documentation: as a phone shows it, and what its search finds."""

from __future__ import annotations

import json
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

BROKEN_WORDS = r"""
const broken = [];
for (const code of document.querySelectorAll("article :is(td, th) code")) {
  const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    for (const word of text.data.matchAll(/\S+/g)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const boxes = [...range.getClientRects()].filter((box) => box.width > 1);
      if (new Set(boxes.map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
    }
  }
}
return broken;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documentation")
    shutil.copytree(PROJECT / "docs", root / "docs")
    shutil.copytree(PROJECT / "benches", root / "benches", ignore=lambda *_: ["results"])
    shutil.copy(PROJECT / "zensical.toml", root)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    TOOL["keep_words_whole"](root / "site")
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


def test_no_table_breaks_a_word_of_code_on_a_phone(
    site: Path, url: str, started_browser: Browser
) -> None:
    started_browser.device(375, 800)
    broken = {}
    for page in sorted(site.rglob("index.html")):
        path = page.parent.relative_to(site).as_posix()
        started_browser.open(f"{url}/{path}/")
        words = started_browser.run(BROKEN_WORDS)
        broken[path] = [word for word in words if len(word) <= TOOL["LONGEST_WORD"]]
        assert started_browser.run("return document.documentElement.scrollWidth") <= 375, path
    started_browser.open("about:blank")

    assert len(broken) > 20
    assert {path: words for path, words in broken.items() if words} == {}


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
