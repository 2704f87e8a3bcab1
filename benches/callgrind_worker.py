"""The process that `harness.callgrind` runs under valgrind: it knows all stages."""

from __future__ import annotations

import sys

from uvloop import run

from .harness.callgrind import run_all
from .stages import STAGES

if __name__ == "__main__":
    run(run_all(STAGES, sys.argv[1]))
