"""`docs/delivery.md`, the table of the rules of delivery and of the tests that hold them."""

from __future__ import annotations

import re

import pytest

from documents import document, missing_cases, missing_tests, references, rows
from sserpent._delivery.life import Ending

# It asks nothing of the core.
pytestmark = pytest.mark.once

DOCUMENT = document("delivery.md")
RULES = [f"D{number}" for number in range(1, 19)]


def rows_of(rule: str) -> list[list[str]]:
    return [row for row in rows(DOCUMENT) if rule in row[0].split(", ")]


def test_every_test_that_the_document_names_exists() -> None:
    assert len(references(DOCUMENT)) > 100
    assert missing_tests(references(DOCUMENT)) == []


def test_every_case_that_the_document_names_exists() -> None:
    assert missing_cases(references(DOCUMENT)) == []


def test_every_rule_has_a_row_and_every_row_of_a_rule_a_test() -> None:
    assert [rule for rule in RULES if not rows_of(rule)] == []
    ruled = [row for row in rows(DOCUMENT) if re.match(r"D\d", row[0])]
    assert {rule for row in ruled for rule in row[0].split(", ")} == set(RULES)
    assert [row for row in ruled if len(row) != 3 or not references(row[-1])] == []


def test_a_test_that_is_named_after_a_rule_stands_in_a_row_of_it() -> None:
    for test, rule in re.findall(r"::(test_(d\d+)_\w+)", DOCUMENT):
        assert any(test in row[-1] for row in rows_of(rule.upper())), test


def test_the_table_of_endings_is_the_engines() -> None:
    connection = {
        "end": "the response ends properly",
        "raise": "the exception goes to the server",
        "close": "cut without the last chunk",
        "abort": "dropped at once",
        "leave": "nothing to do",
    }
    table = {row[0].strip("`"): row[2:] for row in rows(DOCUMENT) if re.match("`[A-Z_]+`$", row[0])}
    assert list(table) == [ending.name for ending in Ending]
    for ending in Ending:
        delivered, connected, told = table[ending.name]
        assert delivered == ("sent" if ending.delivers else "dropped")
        assert connected.startswith(connection[ending.connection])
        assert told == ("called" if ending.tells else "no")
