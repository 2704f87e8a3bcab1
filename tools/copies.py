"""Copies examples into the pages of `docs/`, so that a page shows its code on GitHub too.

A page names the file in a comment right above a block of code:

    <!-- examples/resume.py -->

`python tools/copies.py` writes the file into that block, for every page. A test fails if a block is
not what its file is.
"""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
_COPY = re.compile(r"^(<!-- (\S+\.\w+) -->\n+```\w+\n).*?(^```$)", re.DOTALL | re.MULTILINE)


def with_copies(text: str) -> str:
    """Returns a page with its blocks as their files are now.

    Raises:
        FileNotFoundError: The page names a file that does not exist.
    """
    return _COPY.sub(
        lambda found: found[1] + (PROJECT / found[2]).read_text(encoding="utf-8") + found[3], text
    )


def main() -> None:
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        current = with_copies(text)
        if current != text:
            page.write_text(current, encoding="utf-8")
            print(f"{page.relative_to(PROJECT)} has its examples as they are now")


if __name__ == "__main__":
    main()
