"""Runs the decoders of event streams that are installed over the streams of the tests, and writes
`docs/readers.md`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from readers import page  # type: ignore[import-not-found]

    (ROOT / "docs" / "readers.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
