"""Runs the benchmarks.

python -m benches.run               everything; writes RESULTS.md, results.json, plot and README
python -m benches.run quick         the core of it, in about a minute
python -m benches.run compare       the code against results.json: instructions where valgrind is
                                    installed, or else a quick run's ratios
python -m benches.run page          RESULTS.md, plot and README again, from results.json
python -m benches.run quick calls   one stage
python -m benches.run full fanout   one stage, whose tables take the place of those in results.json
python -m benches.run full instructions     what valgrind counts
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sserpent

from . import ROOT, reading
from .harness import callgrind, report
from .harness.servers import cores, pin
from .harness.timing import Table, Tables
from .stages import STAGES

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).with_name("RESULTS.md")
PLOT = ROOT / "docs" / "benchmark.svg"
README = ROOT / "README.md"
PACKAGES = "sserpent fastapi starlette pydantic pydantic_core sse-starlette orjson uvicorn uvloop"
PACKAGES += " httptools granian httpx httpx-sse httpx2 openai anthropic sseclient-py"
PACKAGES += " launchdarkly-eventsource"
COUNTED_PACKAGES = "fastapi starlette pydantic_core orjson uvloop"
# How often large blocks of memory are moved differs from run to run.
UNSTEADY = (reading.COUNTED_MEGABYTE, reading.COUNTED_LARGE)
# By how much a ratio may be worse than the saved one.
TIMED, COUNTED = 0.15, 0.03

# What else kept the machine busy in the minute before.
_load = round(os.getloadavg()[0], 1)


def measure(stages: Iterable[Any], quick: bool) -> Tables:
    server_cores, client_cores = cores()
    if server_cores == client_cores:
        print("one core for the server and the client: read nothing into these numbers")
    pin(client_cores)
    running = (stage for stage in stages if hasattr(stage, "run"))
    return {table.name: table for stage in running for table in stage.run(quick)}


def measure_full(names: Iterable[str]) -> list[str]:
    """Measures stages, saves the tables of each, and returns those that have failed: they keep
    the tables that they had."""
    failed = []
    for name in names:
        began = time.monotonic()
        try:
            tables = measure_stage(name)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        saved, about = load()
        if name == callgrind.INSTRUCTIONS:
            about["counted_with"] = counted_with()
        save({**saved, **tables}, about)
        print(*map(report.table_of, tables.values()), sep="\n")
        print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)
    return failed


def measure_stage(name: str) -> Tables:
    if name == callgrind.INSTRUCTIONS:
        return callgrind.measure(STAGES)
    return measure([each for each in STAGES if stage_name(each) == name], quick=False)


def stage_names() -> list[str]:
    """Returns what can be measured here: instructions only where valgrind is."""
    counting = [callgrind.INSTRUCTIONS] if callgrind.is_available() else []
    return [*dict.fromkeys(map(stage_name, STAGES)), *counting]


def stage_name(stage: Any) -> str:
    return str(stage.__name__).rpartition(".")[2]


def about_this_run(started: float) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": _load,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        **{each: version(each) for each in PACKAGES.split()},
    }


def _cpu_model() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def save(tables: Tables, about: dict[str, Any]) -> None:
    """Six significant digits are more than any clock here has; a list stays in one line."""
    for table in tables.values():
        for measured in table.cases.values():
            for name, values in measured.items():
                measured[name] = [float(f"{value:.6g}") for value in values]
    saved = {"about": about, "tables": list(map(asdict, tables.values()))}
    text = json.dumps(saved, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\d\s.,e-]+\]", lambda found: "".join(found[0].split()), text)
    RESULTS.write_text(text + "\n")


def load() -> tuple[Tables, dict[str, Any]]:
    saved = json.loads(RESULTS.read_text())
    return {each["name"]: Table(**each) for each in saved["tables"]}, saved["about"]


def write_pages() -> None:
    """The page, the plot and the README's table, from the saved results."""
    tables, about = load()
    PAGE.write_text(report.page(tables, about))
    README.write_text(report.readme(tables, about, README.read_text()))
    report.plot(tables, PLOT)


def regressions(now: Tables, saved: Tables, tolerance: float) -> set[tuple[str, str]]:
    """The cases in which sserpent has lost, by more than the tolerance, against every other
    contender: against one alone, it is that one which has changed."""
    worse = set()
    for name, case in [(table.name, case) for table in now.values() for case in table.cases]:
        before = saved[name].cases.get(case, {}) if name in saved else {}
        known = now[name].cases[case].keys() & before.keys()
        peers = known - {"sserpent", "sserpent-pure"} or known - {"sserpent"}
        if "sserpent" not in known or not peers or case in UNSTEADY:
            continue
        old, new = saved[name], now[name]
        lost = {p: old.ratio(case, p, "sserpent") / new.ratio(case, p, "sserpent") for p in peers}
        if min(lost.values()) > 1 + tolerance:
            shown = ", ".join(f"{times:.2f} against {peer}" for peer, times in lost.items())
            print(f"worse: {name}: {case}: takes times as much as before: {shown}")
            worse.add((name, case))
    return worse


def counted_with() -> dict[str, str]:
    """Returns the build of Python and the versions of the packages that were counted."""
    return {"Python": sys.version, **{each: version(each) for each in COUNTED_PACKAGES.split()}}


def others_than(about: dict[str, Any]) -> str:
    """Returns what differs from the saved results. A faster pydantic-core alone would change
    every ratio."""
    saved = about.get("counted_with", {})
    here = counted_with().items()
    return ", ".join(
        f"{name} {is_} (there {saved.get(name)})" for name, is_ in here if is_ != saved.get(name)
    )


def compare() -> int:
    """Fails if the instructions show a regression, or a quick run shows one and a second one
    shows it again. Other builds of Python and other packages are not compared with."""
    saved, about = load()
    if callgrind.is_available() and callgrind.INSTRUCTIONS in saved:
        if other := others_than(about):
            print(f"not compared, because instructions depend on them: {other}")
            return 0
        worse, tolerance = regressions(callgrind.measure(STAGES), saved, COUNTED), COUNTED
    else:
        worse, tolerance = regressions(measure(STAGES, quick=True), saved, TIMED), TIMED
        if worse:
            print("once more, to tell a regression from a busy moment")
            worse &= regressions(measure(STAGES, quick=True), saved, TIMED)
    print(f"{len(worse)} cases are worse than in {RESULTS.name} by more than {tolerance:.0%}")
    return 1 if worse else 0


def quick(stage: str | None) -> None:
    started = time.monotonic()
    tables = measure([each for each in STAGES if stage in (None, stage_name(each))], quick=True)
    print(*map(report.table_of, tables.values()), report.goals(tables), sep="\n")
    print(f"took {time.monotonic() - started:.0f} s")


def full(stage: str | None) -> list[str]:
    """Measures everything, or one stage, and returns the stages that have failed."""
    started = time.monotonic()
    failed = measure_full([stage] if stage else stage_names())
    tables, about = load()
    again = about.get("stages", {})
    if stage is None:
        old = about["date"]
        about = about_this_run(started) | {"counted_with": about.get("counted_with", {})}
        about["stages"] = {name: again.get(name, old) for name in failed}
    elif not failed:
        about["stages"] = {**again, stage: date.today().isoformat()}
    save(tables, about)
    print(report.goals(tables), *(f"failed: {name}\n" for name in failed))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the benchmarks.")
    parser.add_argument(
        "mode", nargs="?", default="full", choices=["full", "quick", "compare", "page"]
    )
    parser.add_argument("stage", nargs="?", choices=stage_names(), help="this stage alone")
    arguments = parser.parse_args()
    if sserpent.BACKEND != "rust":
        parser.error("the compiled core is missing: run `make build`")
    if arguments.mode == "compare":
        return compare()
    failed: list[str] = []
    if arguments.mode == "quick":
        quick(arguments.stage)
        return 0
    if arguments.mode == "full":
        failed = full(arguments.stage)
    write_pages()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
