"""Runs mypy over the Python code on the pages and in the skill: people paste it into typed code.

Each page becomes a module, with the line numbers of the page.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

PROJECT = Path(__file__).parents[1]
SKILL = PROJECT / "python/sserpent/.agents/skills/sserpent/SKILL.md"
# They quote parts of functions of the package.
_QUOTING = {"architecture.md", "delivery.md"}
_BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
# A page may define a name again, and shows routes without annotations too.
_OPTIONS = ["--disable-error-code", "no-redef", "--disable-error-code", "no-untyped-def"]


def module(text: str) -> str:
    """Returns the code of a page, with empty lines in the place of the text."""
    code = ""
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(2))
        code += "\n" * (line - code.count("\n")) + dedent(block[2])
    return code


def main() -> int:
    pages = [PROJECT / "README.md", SKILL, *sorted((PROJECT / "docs").glob("*.md"))]
    with tempfile.TemporaryDirectory() as folder:
        for page in pages:
            if page.name not in _QUOTING:
                code = module(page.read_text(encoding="utf-8"))
                name = page.stem.replace("-", "_")
                (Path(folder) / f"{name}.py").write_text(code, encoding="utf-8")
        files = sorted(map(str, Path(folder).iterdir()))
        return subprocess.run(
            [sys.executable, "-m", "mypy", *_OPTIONS, *files], cwd=PROJECT
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
