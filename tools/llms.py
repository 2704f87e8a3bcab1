"""Writes `llms.txt` into the site, for coding agents: where the Markdown of each page is.

Its sections are those of the navigation, and each page is introduced by its first sentence. The
form is that of https://llmstxt.org.
"""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"


def write(site: Path) -> None:
    """Writes `llms.txt`, and each page as Markdown beside its directory."""
    for page in DOCS.rglob("*.md"):
        target = site / page.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_whole(page), encoding="utf-8")
    (site / "llms.txt").write_text(text(), encoding="utf-8")


def text() -> str:
    """Returns what `llms.txt` says."""
    # Not by `tomllib`, which Python 3.10 does not have.
    configuration = (PROJECT / "zensical.toml").read_text(encoding="utf-8")
    setting = dict(re.findall(r'^(site_\w+) = "(.+)"$', configuration, re.MULTILINE))
    lines = [
        f"# {setting['site_name']}",
        "",
        f"> {setting['site_description']}",
        "",
        "## First",
        "",
    ]
    entries = re.findall(r'^( *)\{ "(.+)" = (?:\[|"(\S+\.md)" \})', configuration, re.MULTILINE)
    for _, title, page in entries:
        if page:
            sentence = first_sentence(_whole(DOCS / page))
            lines.append(f"- [{title}]({setting['site_url']}{page}): {sentence}")
        else:
            lines += ["", f"## {title}", ""]
    return "\n".join(lines) + "\n"


def first_sentence(markdown: str) -> str:
    """Returns the first sentence of a page's prose, without links."""
    prose = re.sub(r"^```.*?^```$|<[^>]*>", "", markdown, flags=re.DOTALL | re.MULTILINE)
    paragraphs = re.findall(r"^[A-Za-z`].*?(?=\n\n|\Z)", prose, re.DOTALL | re.MULTILINE)
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(paragraphs[0].split()))
    return re.split(r"(?<=[.:?])\s", plain, maxsplit=1)[0].rstrip(":.") + "."


def _whole(page: Path) -> str:
    """A page with the file that it includes."""
    return re.sub(
        r'^--8<-- "([^":]+)[:\d]*"\n',
        lambda found: (PROJECT / found[1]).read_text(encoding="utf-8"),
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
