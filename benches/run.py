"""Runs the benchmarks.

python -m benches.run           everything, writes RESULTS.md, results.json and the plot
python -m benches.run quick     the core of it, in less than a minute
python -m benches.run compare   a quick run's ratios against those in results.json
python -m benches.run page      RESULTS.md and the plot again, from results.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sserpent

from . import in_process, instructions, report, streams
from .goals import GOALS, NAMES
from .measure import Table, Tables, cores, pin, ratio
from .servers import ROOT, allow_many_files

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).with_name("RESULTS.md")
PLOT = ROOT / "docs" / "benchmark.svg"

# What else kept the machine busy in the minute before.
_load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None

PACKAGES = (
    "sserpent",
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_core",
    "sse-starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "granian",
)


def measure_core(passes: int, seconds_each: float) -> list[Table]:
    """The pytest-benchmark suite, several times; each pass is one measurement of everything."""
    tables: Tables = {}
    for _ in range(passes):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "core.json")
            command = [sys.executable, "-m", "pytest", "benches/test_core.py", "--quiet"]
            command += ["-p", "no:cacheprovider", "--benchmark-quiet", "--benchmark-min-rounds=5"]
            command += ["--benchmark-min-time=0.0005", f"--benchmark-max-time={seconds_each}"]
            subprocess.run(
                [*command, f"--benchmark-json={path}"], cwd=ROOT, check=True, stdout=sys.stderr
            )
            benchmarks = json.loads(path.read_text())["benchmarks"]
        for each in benchmarks:
            about = each["extra_info"]
            table = tables.setdefault(about["table"], Table(about["table"], "µs per event"))
            value = each["stats"]["median"] / about["events"] * 1e6
            table.add(about["case"], about["contender"], value)
    return list(tables.values())


def measure(quick: bool) -> Tables:
    server_core, client_core = cores()
    if server_core is None:
        print("one core for the server and the client: read nothing into these numbers")
    pin(client_core)
    allow_many_files()
    rounds = 3 if quick else 7
    tables = measure_core(*((1, 0.05) if quick else (5, 0.1)))
    tables += in_process.measure(rounds, server_core)
    tables += (streams.measure_quick if quick else streams.measure)(rounds, server_core)
    if not quick and instructions.is_available():
        tables.append(instructions.measure())
    return {table.name: table for table in tables}


def about_this_run(started: float) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": _load,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "versions": {
            "Python": platform.python_version(),
            **{each: version(each) for each in PACKAGES},
        },
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def save(tables: Tables, started: float) -> None:
    about = about_this_run(started)
    saved = {"about": about, "tables": [asdict(table) for table in tables.values()]}
    RESULTS.write_text(json.dumps(_rounded(saved), indent=1, ensure_ascii=False) + "\n")
    write_page()


def write_page() -> None:
    """The page and the plot, from the saved results."""
    tables, about = load()
    PAGE.write_text(report.page(tables, about))
    PLOT.parent.mkdir(exist_ok=True)
    report.plot(tables, PLOT)


def _rounded(value: Any) -> Any:
    """Six significant digits are more than any clock here has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value


def load() -> tuple[Tables, dict[str, Any]]:
    saved = json.loads(RESULTS.read_text())
    return {each["name"]: Table(**each) for each in saved["tables"]}, saved["about"]


def show(tables: Tables) -> None:
    for table in tables.values():
        for case, measured in table.cases.items():
            if "sserpent" in measured:
                ratios = ", ".join(
                    f"{NAMES[name].replace('`', '')} {ratio(table, case, name, 'sserpent'):.2f}"
                    for name in measured
                    if name != "sserpent"
                )
                print(f"{table.name}: {case}: times the time of sserpent: {ratios}")
    for goal in GOALS:
        try:
            value = goal.value(tables)
        except KeyError:
            continue  # not part of this run
        verdict = "met" if goal.is_met(value) else "MISSED"
        print(f"goal: {goal.work}: {value:.3g} {goal.versus.replace('`', '')}, {goal}: {verdict}")


def regressions(now: Tables, saved: Tables, tolerance: float) -> set[tuple[str, str]]:
    """The cases in which sserpent has lost, by more than the tolerance, against every other
    contender: against one alone, it is that one which has changed."""
    worse = set()
    for name, table in now.items():
        for case, measured in table.cases.items():
            before = saved[name].cases.get(case, {}) if name in saved else {}
            peers = (measured.keys() & before.keys()) - {"sserpent"}
            peers = peers - {"sserpent-pure"} or peers
            if not peers or "sserpent" not in measured.keys() & before.keys():
                continue
            changes = {
                peer: ratio(table, case, peer, "sserpent")
                / ratio(saved[name], case, peer, "sserpent")
                for peer in sorted(peers)
            }
            if max(changes.values()) < 1 - tolerance:
                shown = ", ".join(
                    f"{change:.2f} against {peer}" for peer, change in changes.items()
                )
                print(f"worse: {name}: {case}: {shown}")
                worse.add((name, case))
    return worse


def compare(tolerance: float) -> int:
    """Fails if a quick run shows a regression and a second one shows it again."""
    saved, _ = load()
    worse = regressions(measure(quick=True), saved, tolerance)
    if worse:
        print("once more, to tell a regression from a busy moment")
        worse &= regressions(measure(quick=True), saved, tolerance)
    print(f"{len(worse)} cases are slower than in {RESULTS.name} by more than {tolerance:.0%}")
    return 1 if worse else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the benchmarks.")
    modes = ("full", "quick", "compare", "page")
    parser.add_argument("mode", nargs="?", default="full", choices=modes)
    parser.add_argument("--tolerance", type=float, default=0.25, help="a share; 0.25 unless given")
    arguments = parser.parse_args()
    if sserpent.BACKEND != "rust":
        parser.error("the compiled core is missing: run `make build`")
    if arguments.mode == "compare":
        return compare(arguments.tolerance)
    if arguments.mode == "page":
        write_page()
        return 0
    started = time.monotonic()
    tables = measure(quick=arguments.mode == "quick")
    show(tables)
    if arguments.mode == "full":
        save(tables, started)
    print(f"took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
