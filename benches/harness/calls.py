"""The tables of calls, made of what pytest-benchmark measures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benches import ROOT

from .timing import Table

# Several passes over everything: what keeps the machine busy for seconds decides no case.
PASSES = 5
OPTIONS = ["-q", "-p", "no:cacheprovider", "--benchmark-quiet", "--benchmark-min-rounds=3"]


def run(quick: bool) -> Iterable[Table]:
    """A table for each work. The fastest round of each pass is a measurement."""
    tables: dict[str, Table] = {}
    for _ in range(2 if quick else PASSES):
        for measured in _one_pass(seconds_each=0.02 if quick else 0.1):
            about = measured["extra_info"]
            unit = "µs of processor time per event"
            table = tables.setdefault(about["work"], Table(about["work"], unit, minima=True))
            spent = measured["stats"]["min"] / about["events"] * 1e6
            table.add(about["case"], about["contender"], spent)
    return tables.values()


def _one_pass(seconds_each: float) -> list[dict[str, dict[str, float | str]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "calls.json")
        command = [sys.executable, "-m", "pytest", "benches", *OPTIONS]
        command += [f"--benchmark-max-time={seconds_each}", f"--benchmark-json={path}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        benchmarks: list[dict[str, dict[str, float | str]]] = json.loads(path.read_text())[
            "benchmarks"
        ]
    return benchmarks
