"""`docs/readers.md` is what the run gives for the readers of other people that are installed.

`make bench-calls` runs it: what it tests is theirs.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from benches import ROOT
from readers import READERS, cells, verdicts

PAGE = (ROOT / "docs" / "readers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in READERS if name != "sserpent"])
def test_the_page_is_what_the_run_gives(name: str) -> None:
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    written = re.search(rf"{re.escape(name)} ([\w.]+)[,.]", PAGE)
    assert written
    if not PAGE.count(f"{name} {installed}"):
        pytest.skip(f"{name} is {installed} here, and {written[1]} on the page")
    assert verdicts(name) == cells(PAGE)[name]
