"""The benchmarks: `make bench`, `make bench-quick`, `make bench-calls` and `make bench-compare`.

A new call is a case in `core/calls.py` or `reading.py`: pytest-benchmark times it, by
`test_calls.py`, and `harness/calls.py` makes the tables. `test_readers.py` holds `docs/readers.md`:
what other decoders make of streams. A new table of another kind is a module
with `run(quick)` that checks what its contenders do, times them by `in_turns` of
`harness/timing.py` and returns tables, and its name in `stages.py`. What `counted()` returns,
valgrind counts. A goal is an entry in `goals.py`, with its cells and why it may be missed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The servers and the reader of streams are those of the tests.
sys.path.insert(0, str(ROOT / "tests" / "support"))
