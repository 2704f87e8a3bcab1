"""Writes `rust/docs.rs`: the documentation of the compiled core, taken from its twin.

`python/sserpent/_core/` is the specification, and `help()` shows the same for both. The crate asks
for the text by its name in Python:

    #[doc = doc!("Buffer.push")]

`python tools/rust_docs.py` writes the file. A test fails if it is not what the twin says.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
TARGET = PROJECT / "rust" / "docs.rs"
_HEAD = """\
//! The documentation of the twin, by its names in Python. Written by `tools/rust_docs.py` from
//! `python/sserpent/_core/`: change it there.

#[rustfmt::skip]
macro_rules! doc {
"""


def documented() -> Iterator[tuple[str, str]]:
    """Yields the name and the docstring of every public class, method, property and function.

    Raises:
        ValueError: one has no docstring.
    """
    from sserpent._core import MODULES, pure

    for name in MODULES:
        value = getattr(pure, name)
        yield name, _docstring(name, value)
        if isinstance(value, type):
            for member, of_class in vars(value).items():
                if not member.startswith("_"):
                    yield f"{name}.{member}", _docstring(f"{name}.{member}", of_class)


def _docstring(name: str, value: object) -> str:
    found = inspect.getdoc(value)
    if not found:
        raise ValueError(f"{name} has no docstring: it is public")
    return found


def as_rust() -> str:
    """Returns the text of the file."""
    arms = [f'    ("{name}") => {{ {_literal(text)} }};\n' for name, text in documented()]
    return "".join([_HEAD, *arms, "}\n"])


def _literal(text: str) -> str:
    hashes = "#" if '"' in text else ""
    return f'r{hashes}"{text}"{hashes}'


def main() -> None:
    os.environ["SSERPENT_PURE"] = "1"  # the compiled core may be older than what is described
    TARGET.write_text(as_rust(), encoding="utf-8")


if __name__ == "__main__":
    main()
