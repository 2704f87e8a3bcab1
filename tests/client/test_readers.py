"""`docs/readers.md` has every reader and every stream, and ours is right on each.

`benches/test_readers.py` runs the others.
"""

from __future__ import annotations

from pathlib import Path

from readers import READERS, cells, verdicts
from stream_cases import CASES

PAGE = (Path(__file__).parents[2] / "docs" / "readers.md").read_text(encoding="utf-8")


def test_the_page_has_every_reader_and_stream() -> None:
    assert list(cells(PAGE)) == list(READERS)
    assert all(list(column) == list(CASES) for column in cells(PAGE).values())
    assert len(CASES) >= 23


def test_sserpent_is_right_on_every_stream() -> None:
    assert {case: wrong for case, wrong in verdicts("sserpent").items() if wrong} == {}
    assert set(cells(PAGE)["sserpent"].values()) == {""}
