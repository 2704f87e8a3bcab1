"""Builds the documentation into `site/`, and fails on a warning or a link that leads nowhere.

First it copies the examples and the docstrings into the pages (`tools/copies.py`,
`tools/reference.py`); last it marks words and tables for phones, and writes `llms.txt`.

The generator checks the links of the pages' sources. This also follows the links of what it has
made, of text that pages include too.

Every `python` block of a page runs in the tests, and an application must answer a `curl` as the
page says. A new page goes into the `nav` of `zensical.toml`, a new public name into
`docs/reference/`. The generator is Zensical: the authors of Material for MkDocs moved there, and
only maintain that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path("site")
LONGEST_WORD = 34  # characters, which a phone can show in one line
SHORT_TEXT = 36  # characters, which a phone shows in one line beside their name


class Page(HTMLParser):
    """What a page links to, and what on it can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src", "srcset") and value and tag != "base":
                self.links.append(value)


def main() -> None:
    # Beside this file: not before it runs as a program, and not where tests import it.
    import copies
    import llms

    copies.main()
    subprocess.run([sys.executable, Path(__file__).with_name("reference.py")], check=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    problems = [line for line in done.stderr.splitlines() if line not in ("", "No issues found")]
    if done.returncode and not problems:
        problems = ["the build failed"]
    problems = problems or dead_links(SITE)
    fit_phones(SITE)
    llms.write(SITE)
    if problems:
        sys.exit("\n".join(problems))
    print(f"The documentation is in {SITE}/")


def fit_phones(site: Path) -> None:
    """Marks in every page what the style sheet cannot see by itself."""
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        page.write_text(with_columns_named(with_whole_words(html)), encoding="utf-8")


def with_whole_words(html: str) -> str:
    """Returns a page whose style sheet can keep each word of code within a sentence on one line.

    Longer words, as tests, expressions and URLs have, break after an underscore, "::", "/" or ",".
    """

    def marked(word: re.Match[str]) -> str:
        if len(unescape(word[0])) <= LONGEST_WORD:
            return f'<span class="word">{word[0]}</span>'
        return re.sub(r"_|::|/(?!/)|,", r"\g<0><wbr>", word[0])

    def marked_code(code: re.Match[str]) -> str:
        words = re.sub(r"\S+", marked, code[1])
        return f"<code>{words}</code>"

    return re.sub(r"<code>([^<]*)</code>", marked_code, html)


def with_columns_named(html: str) -> str:
    """Returns a page whose style sheet can show the rows of its wide tables as lists.

    In a table of three columns or more each cell after the first has the name of its column. One
    column of sentences needs none if there are three, and if the rows are not compared in them.
    """
    return re.sub(r"<table>.*?</table>", lambda it: _named(it[0]), html, flags=re.DOTALL)


def _named(table: str) -> str:
    head, *rows = (row.split("<td") for row in table.split("<tr>"))
    names = [_text(name) for name in re.findall(r"<th\b.*?</th>", table, re.DOTALL)]
    if len(names) < 3:
        return table
    longest = [
        max((len(_text("<td" + row[column])) for row in rows if column < len(row)), default=0)
        for column in range(1, len(names) + 1)
    ]
    is_short = max(longest[1:]) <= SHORT_TEXT
    if len(names) == 3 and names[0] and not is_short:
        names[1 if longest[1] > SHORT_TEXT else 2] = ""
    names[0] = ""
    attributes = [f' data-column="{escape(name)}"' if name else "" for name in names]
    named = [
        row[0]
        + "".join(f"<td{name}{cell}" for name, cell in zip(attributes, row[1:], strict=False))
        for row in rows
    ]
    opening = f'<table data-cells="{"short" if is_short else "long"}">'
    return "<tr>".join(["<td".join(head), *named]).replace("<table>", opening, 1)


def _text(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html)).strip()


def dead_links(site: Path) -> list[str]:
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    return [
        f"{path.relative_to(site.resolve()).as_posix()}: {link} leads nowhere"
        for path, page in pages.items()
        if path.name != "404.html"  # whose links are relative to the root of the host
        for link in page.links
        if not leads_somewhere(path, link, pages)
    ]


def leads_somewhere(path: Path, link: str, pages: dict[Path, Page]) -> bool:
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return True
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    if target.is_dir():
        target /= "index.html"
    if target not in pages:
        return target.is_file()
    # `__` begins the anchors that scripts of the theme make.
    anchor = unquote(url.fragment)
    return not anchor or anchor.startswith("__") or anchor in pages[target].anchors


if __name__ == "__main__":
    main()
