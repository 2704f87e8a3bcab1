"""Instructions per event, by library: what the time of a missed goal goes into. Callgrind counts
them, so they hardly depend on the run or on what else the machine does.

A worker (`python -m benches.instructions`) runs the cases under valgrind and has the counts dumped
after each, https://valgrind.org/docs/manual/cl-manual.html#cl-manual.callgrind_control-options.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from .contenders import Call
from .goals import NAMES
from .measure import Table

# By a part of the library's path; the first that fits.
_LIBRARIES = {
    "compiled": "`sserpent`'s core",
    "_pydantic_core": "pydantic-core",
    "uvloop/loop": "uvloop",
    "libpython": "CPython",
    "bin/python": "CPython",
    "lib-dynload": "CPython",
    "libc.": "C library",
    "": "the rest",
}
LIBRARIES = list(dict.fromkeys(_LIBRARIES.values()))

VALGRIND = ("valgrind", "--tool=callgrind")
WORKER = (sys.executable, "-m", "benches.instructions")
INSTRUCTIONS = "instructions by library"

Case = Callable[[int], Awaitable[None]]


def is_available() -> bool:
    return bool(shutil.which("valgrind") and shutil.which("callgrind_control"))


def measure() -> Table:
    """The instructions of each library, by case and contender."""
    table = Table(INSTRUCTIONS, "instructions per event")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "counts")
        subprocess.run(
            [*VALGRIND, f"--callgrind-out-file={output}", *WORKER],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        counts = dict(_read_dump(path) for path in output.parent.glob("counts.*"))
    for number, (work, contender, events) in enumerate(CASES):
        few, many = counts[f"{number}-few"], counts[f"{number}-many"]
        for library in LIBRARIES:
            spent = (many[library] - few[library]) / (2 * events)
            table.add(f"{work}: {NAMES[contender]}", library, spent)
    return table


def _read_dump(path: Path) -> tuple[str, Counter[str]]:
    """A dump's name, and its instructions by library;
    https://valgrind.org/docs/manual/cl-format.html."""
    name = ""
    libraries: dict[str, str] = {}
    library = _library_of("")
    counted: Counter[str] = Counter()
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if line.startswith("desc: Trigger: dump "):
            name = line.removeprefix("desc: Trigger: dump ")
        elif found := re.match(r"(c?)ob=(\(\d+\))(?: (.*))?", line):
            callee, number, file = found.groups()
            if file is not None:
                libraries[number] = _library_of(file)
            if not callee:
                library = libraries[number]
        elif line.startswith("calls="):
            next(lines)  # what the callee has spent is listed with the callee
        elif found := re.fullmatch(r"[-+*\d]\d* (\d+)", line):
            counted[library] += int(found[1])
    return name, counted


def _library_of(file: str) -> str:
    return next(library for part, library in _LIBRARIES.items() if part in file)


# Work, contender, and how many events are enough for the count to settle.
TOKEN = "construct + encode, token with event"
MODEL = "construct + encode, model with event, id, retry"
LINES = "100 KB of text, 1,350 lines"
TURN = "one event per loop turn, in process"
FIRST_EVENT = "connection to first event, in process"
CASES = [
    *[(TOKEN, name, 1_000) for name in ("sserpent", "fastapi")],
    *[(MODEL, name, 1_000) for name in ("sserpent", "fastapi", "to_json")],
    *[(LINES, name, 20) for name in ("sserpent", "fastapi")],
    *[(TURN, name, 500) for name in ("sserpent", "hand", "asgi", "fastapi")],
    *[(FIRST_EVENT, name, 100) for name in ("sserpent", "hand", "asgi", "fastapi")],
]


def _run_of(work: str, contender: str) -> Case:
    """Runs a case as often as it is told."""
    from . import in_process, test_core
    from .app import app

    async def turns(count: int) -> None:
        await in_process.seconds(app, f"/{contender}/turn", f"n={count}")

    async def first_events(count: int) -> None:
        for _ in range(count):
            await in_process.first_event(app, f"/{contender}/idle")

    if work == TURN:
        return turns
    if work == FIRST_EVENT:
        return first_events
    if contender == "to_json":
        call: Call = test_core.GROUPS["to_json"]["model"]["to_json"]
    else:
        case = {
            TOKEN: "token with event",
            MODEL: "model with event, id, retry",
            LINES: "100 KB of log lines",
        }[work]
        call = test_core.GROUPS["encode"][case][contender]

    async def calls(count: int) -> None:
        call(count)

    return calls


async def run_all() -> None:
    """The worker: each case with few and with many events; the difference is theirs alone."""
    for number, (work, contender, events) in enumerate(CASES):
        run = _run_of(work, contender)
        await run(events // 10)
        _dump_counts("between")
        await run(events)
        _dump_counts(f"{number}-few")
        await run(3 * events)
        _dump_counts(f"{number}-many")


def _dump_counts(name: str) -> None:
    command = ["callgrind_control", f"--dump={name}", str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(run_all())
