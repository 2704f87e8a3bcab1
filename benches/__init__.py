"""The benchmarks: `make bench`, `make bench-quick` and `make bench-compare`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The servers and the reader of streams are those of the tests.
sys.path.insert(0, str(ROOT / "tests" / "support"))
