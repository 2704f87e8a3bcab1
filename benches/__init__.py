"""The benchmarks: `make bench`, `make bench-quick` and `make bench-compare`.

A new table is a module with `run(quick)` that checks what its contenders do and returns tables,
and its name in `stages.py`. Calls are timed by `time_calls`, all else by `in_turns`, both in
`harness/timing.py`. What `counted()` returns, valgrind counts. A goal is an entry in `goals.py`,
with its cells and why it may be missed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The servers and the reader of streams are those of the tests.
sys.path.insert(0, str(ROOT / "tests" / "support"))
