"""Instructions per event, by library. Callgrind counts them, so they hardly depend on the run or on
what else the machine does.

A worker (`python -m benches.callgrind_worker`) runs under valgrind what the stages want counted,
and calls a function of the C library after each, at which callgrind dumps its counts,
https://valgrind.org/docs/manual/cl-manual.html#opt.dump-before. It turns the counting on itself
when all modules are there: their import would take five times as long.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Any

from sserpent._fastapi import response
from sserpent.channels.fanout import hub
from sserpent.channels.runs import turns

from .timing import Table, Tables

INSTRUCTIONS = "instructions"
BY_LIBRARY = "instructions by library"
# Callgrind dumps at a call of the C function of this name; nobody else calls it.
dump = os.getsid
# By a part of the library's path; the first that fits.
LIBRARIES = {
    "compiled": "`sserpent`'s core",
    "_pydantic_core": "pydantic-core",
    "uvloop/loop": "uvloop",
    "libpython": "CPython",
    "bin/python": "CPython",
    "lib-dynload": "CPython",
    "libc.": "C library",
    "": "the rest",
}


@dataclass
class Counted:
    """What is counted: `run` with a number of events, which may return an awaitable.

    Args:
        events: How many are enough for the count to settle.
        process: Of all that is counted, this is run in one process with what names the same:
            CPython specializes its code to the types that it meets there.
    """

    case: str
    contender: str
    events: int
    run: Callable[[int], Any]
    process: str = ""


def is_available() -> bool:
    return all(map(shutil.which, ("valgrind", "vgdb")))


def measure(stages: Iterable[Any]) -> Tables:
    """In all by case and contender, and by library."""
    total = Table(INSTRUCTIONS, "instructions per event")
    libraries = Table(BY_LIBRARY, "instructions per event")
    processes: dict[str, list[Counted]] = {}
    for counted in _all_counted(stages):
        processes.setdefault(counted.process, []).append(counted)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for spent_by_case in pool.map(_spent, processes, processes.values()):
            for counted, spent in spent_by_case:
                total.add(counted.case, counted.contender, sum(spent.values()))
                case = f"{counted.case}: {counted.contender}"
                for library in dict.fromkeys(LIBRARIES.values()):
                    libraries.add(case, library, spent.get(library, 0.0))
    return {total.name: total, libraries.name: libraries}


def _spent(process: str, together: list[Counted]) -> list[tuple[Counted, dict[str, float]]]:
    """Runs a process, and returns for each case by library what an event takes."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
        options += [f"--dump-before={dump.__name__}", "--instr-atstart=no"]
        subprocess.run(
            ["valgrind", *options, sys.executable, "-m", "benches.callgrind_worker", process],
            check=True,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        for number, counted in enumerate(together):
            few, many = (_read_dump(Path(folder, f"counts.{3 * number + n}")) for n in (2, 3))
            spent = {name: (many[name] - few[name]) / (2 * counted.events) for name in few | many}
            found.append((counted, spent))
    return found


def _all_counted(stages: Iterable[Any]) -> Iterable[Counted]:
    return (counted for stage in stages if hasattr(stage, "counted") for counted in stage.counted())


def _read_dump(path: Path) -> Counter[str]:
    """Instructions by library; https://valgrind.org/docs/manual/cl-format.html."""
    libraries: dict[str, str] = {}
    library = LIBRARIES[""]
    counted: Counter[str] = Counter()
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if found := re.match(r"(c?)ob=(\(\d+\))(?: (.*))?", line):
            callee, number, file = found.groups()
            if file is not None:
                libraries[number] = next(LIBRARIES[part] for part in LIBRARIES if part in file)
            if not callee:
                library = libraries[number]
        elif line.startswith("calls="):
            next(lines)  # what the callee has spent is listed with the callee
        elif found := re.fullmatch(r"[-+*\d]\d* (\d+)", line):
            counted[library] += int(found[1])
    return counted


def _start_counting() -> None:
    """By valgrind's own program. It looks for requests while it runs the process, which therefore
    must not wait; that it would stop a process that waits, with ptrace, is not allowed
    everywhere."""
    command = ["vgdb", f"--pid={os.getpid()}", "--max-invoke-ms=0", "instrumentation", "on"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as vgdb:
        while vgdb.poll() is None:
            pass
    if vgdb.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {vgdb.returncode}")


def _stop_clocks() -> None:
    """Has a chunk end by its bytes alone, a turn of the event loop when all is done, and no stream
    be quiet for so long that it gets a keep-alive: how much fits into some time is not the code's
    doing, under valgrind least of all."""
    patched: Any = response
    patched.Buffer = partial(response.Buffer, max_age=3600.0)
    response.EventSourceResponse.ping_interval = 3600.0
    hub._SLICE = turns._TURN = 3600.0


async def run_all(stages: Iterable[Any], process: str) -> None:
    """The worker: each case with few and with many events; the difference is theirs alone."""
    _stop_clocks()
    _start_counting()
    for counted in _all_counted(stages):
        if counted.process != process:
            continue
        for events in (max(1, counted.events // 10), counted.events, 3 * counted.events):
            gc.collect()  # what was left before is not counted in one of them alone
            done = counted.run(events)
            if isawaitable(done):
                await done
            dump(0)
