"""`docs/readers.md` is what the run gives for the readers that are installed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from readers import READERS, verdicts
from stream_cases import CASES

PAGE = (Path(__file__).parents[2] / "docs" / "readers.md").read_text(encoding="utf-8")


def cells() -> dict[str, dict[str, str]]:
    """The page's verdicts, by reader and stream."""
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in PAGE.splitlines()
        if row.startswith("|")
    ]
    names, body = rows[0][1:], rows[2:-1]
    return {name: {row[0]: row[1 + at] for row in body} for at, name in enumerate(names)}


def test_the_page_has_every_reader_and_stream() -> None:
    assert list(cells()) == list(READERS)
    assert all(list(column) == list(CASES) for column in cells().values())
    assert len(CASES) >= 23


def test_sserpent_is_right_on_every_stream() -> None:
    assert {case: wrong for case, wrong in verdicts("sserpent").items() if wrong} == {}
    assert set(cells()["sserpent"].values()) == {""}


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
    assert verdicts(name) == cells()[name]
