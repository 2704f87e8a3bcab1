"""The code on the pages of the documentation, and how it runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi.testclient import TestClient

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
README = PROJECT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]


class Block(NamedTuple):
    language: str
    code: str


def text_of(page: Path) -> str:
    """The page with the files that it includes."""
    return re.sub(
        r'^--8<-- "([^":]+)[:\d]*"\n',
        lambda found: (PROJECT / found[1]).read_text(encoding="utf-8"),
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )


def all_blocks(page: Path) -> list[Block]:
    # The form with a dot is for what a formatter of Python must leave alone. In a list a block is
    # indented.
    found = re.findall(
        r"^( *)```(?: \{ \.)?(\w+)(?: \})?\n(.*?)^\1```$", text_of(page), re.DOTALL | re.MULTILINE
    )
    return [Block(language, dedent(code) if indent else code) for indent, language, code in found]


def blocks(page: Path) -> list[str]:
    return [block.code for block in all_blocks(page) if block.language == "python"]


def run_blocks(page: Path) -> dict[str, Any]:
    """Runs the page from top to bottom, as one module. What it says that `curl` prints, the
    application that it has by then must answer."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in all_blocks(page):
        if block.language == "python":
            exec(compile(block.code, page.name, "exec", dont_inherit=True), namespace)
        elif block.language == "console":
            for command, printed in commands(block.code):
                if command[0] == "curl":
                    assert answer(namespace["app"], command[1:]) == printed, command
    return namespace


def commands(session: str) -> list[tuple[list[str], str]]:
    """The commands of a session in a shell, and what each prints."""
    parts = re.split(r"^\$ (.+)\n", session, flags=re.MULTILINE)
    lines, outputs = parts[1::2], parts[2::2]
    return [
        (shlex.split(line, comments=True), out) for line, out in zip(lines, outputs, strict=True)
    ]


def answer(app: Any, arguments: list[str]) -> str:
    """What curl prints for these arguments, without a network."""
    url, method, body, headers = "", "GET", None, {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif argument == "--json":
            method, body = "POST", next(rest)
            headers["Content-Type"] = "application/json"
        elif argument.startswith("http://"):
            url = urlsplit(argument).path
        else:
            assert argument == "-N", argument
    printed = TestClient(app).request(method, url, content=body, headers=headers).text
    # A terminal's next prompt begins a line.
    return printed if printed.endswith("\n") else printed + "\n"
