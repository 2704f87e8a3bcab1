"""Writes a run's results as a page and as a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from .goals import GOALS, NAMES
from .instructions import FIRST_EVENT, INSTRUCTIONS, LIBRARIES, LINES, MODEL, TURN
from .measure import Table, Tables, ratio

# Beside the measurements: how many times as much each of these takes as the compiled sserpent.
COMPARED = ("fastapi", "sserpent-pure", "sse-starlette", "hand", "axum")

ABOUT = """\
Every case is first checked: what a client decodes must be right, for every contender. The numbers
in the tables are medians. Ratios are not ratios of these medians, but medians of the ratios of
pairs: contenders take turns, so that each measurement has a neighbour to be divided by. All single
measurements are in [`results.json`](results.json).

Whole-server runs: the server runs in a process of its own on one core, a raw-socket client that
only counts on another. "Burst" is a generator that always has another event; "one event per loop
turn" awaits `asyncio.sleep(0)` after each. Who takes part:

- `fastapi.sse` and `sserpent`: the same application code, only the import differs.
- `sserpent`, pure Python: the same with `SSERPENT_PURE=1`. The delivery engine is the same; events,
  framing and the buffer are in Python.
- `sse-starlette`: dicts with JSON of `model_dump_json()` or `json.dumps`.
- hand-framed: `StreamingResponse` whose generator yields `b"data: %b\\n\\n" % to_json(item)`.
- 100 events a chunk: the same, but joined by hand: the floor of a burst.
- bare ASGI: no framework and no generator, a loop that calls `send`: the floor of trickling events
  and of idle connections.

Construct, frame, encode, push and `to_json` are timed as loops of 100 in one function, so that the
call of that function does not count. "Instructions by library" is what callgrind counts between two
runs of the same work, one three times as long.
"""


def text(value: float) -> str:
    """Four significant digits, never in exponents."""
    digits = 3
    limit = 10.0
    while digits and value >= limit:
        digits, limit = digits - 1, limit * 10
    return f"{value:,.{digits}f}"


def times(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def page(tables: Tables, about: dict[str, Any]) -> str:
    """The whole of RESULTS.md."""
    parts = ["# Benchmark results\n", _machine(about), _goals(tables), _shortfalls(tables)]
    parts += [
        "## How it is measured\n",
        ABOUT,
        _floors(tables),
        _backends(tables),
        "## All tables\n",
    ]
    parts += [_table(table) for table in tables.values()]
    return "\n".join(parts)


def _machine(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}, {about['cpu']}, {about['cores']} cores,"
        f" in {about['minutes']} minutes; load average before the run: {about['load']}.\n\n"
        f"{versions}.\n\n"
        "`make bench` writes this page, `make bench-quick` measures the core of it in less than a"
        " minute, `make bench-compare` holds such a quick run's ratios against these.\n"
    )


def _goals(tables: Tables) -> str:
    rows = []
    for goal in GOALS:
        value = goal.value(tables)
        verdict = "met" if goal.is_met(value) else "**missed**"
        rows.append([goal.work, goal.versus, str(goal), times(value), verdict])
    return "## Goals\n\n" + _markdown(["work", "ratio", "goal", "measured", ""], rows)


def _reasons(tables: Tables) -> dict[tuple[str, str], str]:
    """Why a goal may be missed: what the time goes into."""

    def count(work: str, contender: str, *libraries: str) -> str:
        if INSTRUCTIONS not in tables:
            return "(not counted)"
        counted = tables[INSTRUCTIONS].cases[f"{work}: {NAMES[contender]}"]
        return f"{sum(counted[each][0] for each in libraries or counted):,.0f}"

    def share(case: str) -> float:
        return ratio(tables["uvicorn, connection to first event"], case, "sserpent", "fastapi")

    core, c_library = f"{NAMES['sserpent']}'s core", "C library"
    turn, first = "one event per loop turn", "connection to first event"
    return {
        (turn, "times as fast as `fastapi.sse`"): (
            "the turn of the loop, the server's `send` and the kernel are nearly all of it; see"
            " bare ASGI below"
        ),
        (turn, "of `StreamingResponse`, hand-framed"): (
            f"{count(TURN, 'sserpent')} instructions for each event in process, against"
            f" {count(TURN, 'hand')} hand-framed and"
            f" {count(TURN, 'asgi')} in a bare loop. Our core has"
            f" {count(TURN, 'sserpent', core)} of them, pydantic-core as many as"
            " hand-framed. The rest is CPython's: byte codes that step the generator by hand, so"
            " that the event is sent at the very moment of its suspension, and that look whether"
            " the client has gone, a keep-alive is on its way or an earlier `send` still waits"
        ),
        (first, "of `fastapi.sse`"): (
            "in process, from request to the end of a stream of one event, it takes"
            f" {count(FIRST_EVENT, 'sserpent')} instructions against"
            f" {count(FIRST_EVENT, 'fastapi')} of `fastapi.sse` and"
            f" {count(FIRST_EVENT, 'hand')} hand-framed. Connecting, accepting and parsing,"
            " which are the same for all, come on top by the clock; what bare ASGI takes below is"
            " nothing else. In the server's processor time it is"
            f" {times(share('processor time of the server'))}, by the mean {times(share('mean'))}"
        ),
        (MODEL, "of `to_json` alone"): (
            f"{count(MODEL, 'sserpent')} instructions against {count(MODEL, 'to_json')}, of which"
            f" our core has {count(MODEL, 'sserpent', core)} and CPython, which makes and frees two"
            " objects and calls two functions more, the rest. They take more time each than"
            " pydantic-core's: in perf's profile the allocations, the copies of bytes that"
            " have just been written and the calls between libraries stand out"
        ),
        (LINES, "times as fast as `fastapi.sse`"): (
            f"{count(LINES, 'sserpent', core)} instructions in our core,"
            f" {count(LINES, 'sserpent', c_library)} in the C library's `memcpy`, against"
            f" {count(LINES, 'fastapi')} in all. Of `perf record -e cpu-clock` over a"
            " loop of this benchmark's call, 36 % is the search for each next line end (AVX2), 18 %"
            " counting them beforehand for the size, 18 % copying, 11 % the loop over the lines,"
            " 6 % zeroing the new bytes. Noting the line ends instead of searching twice took"
            " longer"
        ),
    }


def _shortfalls(tables: Tables) -> str:
    missed = [goal for goal in GOALS if not goal.is_met(goal.value(tables))]
    if not missed:
        return ""
    reasons = _reasons(tables)
    lines = [
        f"- {goal.work}, {goal.versus}:"
        f" {reasons.get((goal.work, goal.versus), 'not explained yet')}."
        for goal in missed
    ]
    return "## What fell short\n\n" + "\n".join(lines) + "\n"


def _floors(tables: Tables) -> str:
    def middle(table: str, case: str, name: str) -> str:
        return text(median(tables[table].cases[case][name]))

    burst, turn, idle = (
        "uvicorn, burst",
        "uvicorn, one event per loop turn",
        "uvicorn, memory per idle connection",
    )
    first = "uvicorn, connection to first event"
    model, named = "models", "model with event, id, retry"
    parts = {
        ("burst of annotated models", burst, model): (
            f"pydantic-core's `to_json`: {middle('to_json', 'model', 'to_json')}, with"
            f" framing {middle('push', 'annotated model', 'sserpent')}; hand-joined chunks"
            f" through the server's `send` and the kernel: {middle(burst, model, 'joined')}"
        ),
        ("burst of tokens", burst, "tokens"): (
            "the generator's own `ServerSentEvent(...)`:"
            f" {middle('construct', 'token with event', 'sserpent')}, framing:"
            f" {middle('push', 'event with token', 'sserpent')}; hand-joined chunks, without event"
            f" objects: {middle(burst, 'tokens', 'joined')}"
        ),
        ("one event per loop turn", turn, model): (
            "a turn of the event loop, the server's `send` and the kernel's, which bare ASGI needs"
            f" too: {middle(turn, model, 'asgi')}"
        ),
        ("memory per idle connection, KiB", idle, "2,000 connections"): (
            "the server's protocol and task, which bare ASGI needs too:"
            f" {middle(idle, '2,000 connections', 'asgi')}; then FastAPI's request with its"
            " dependencies and exit stacks, and the stream"
        ),
        ("connection to first event", first, "median"): (
            "connecting, accepting and parsing, which bare ASGI needs too:"
            f" {middle(first, 'median', 'asgi')}; then FastAPI's routing and dependencies"
        ),
        (f"construct + encode, {named}", "encode", named): (
            f"pydantic-core's `to_json`: {middle('to_json', 'model', 'to_json')}; making the"
            f" event: {middle('construct', named, 'sserpent')}"
        ),
    }
    rows = [
        [row, middle(table, case, "sserpent"), made_of]
        for (row, table, case), made_of in parts.items()
    ]
    return "## What the floors are made of\n\nMicroseconds, where it says nothing else.\n\n" + (
        _markdown(["row", "`sserpent`", "of which"], rows)
    )


def _backends(tables: Tables) -> str:
    burst = tables["uvicorn, burst"]
    rows = []
    for case in burst.cases:
        pure = ratio(burst, case, "fastapi", "sserpent-pure")
        native = ratio(burst, case, "fastapi", "sserpent")
        rust = ratio(burst, case, "sserpent-pure", "sserpent")
        rows.append([case, times(pure), times(native), times(rust)])
    header = ["burst on uvicorn", "pure Python", "Rust", "Rust against pure Python"]
    return (
        "## Rust and pure Python\n\n"
        "How many times as fast as `fastapi.sse`. What both share is the delivery engine and"
        " pydantic-core; what the compiled core adds is the rest. The larger the values, the less"
        " it adds: for a nested model of 10 KB it is"
        f" {times(ratio(tables['encode'], 'nested model, 10 KB', 'sserpent-pure', 'sserpent'))}"
        " times as fast as pure Python, for what goes through FastAPI's own encoder (Decimals,"
        " datetimes)"
        f" {times(ratio(tables['encode'], _SLOW, 'sserpent-pure', 'sserpent'))} times.\n\n"
        + _markdown(header, rows)
    )


_SLOW = "dict with Decimals and datetimes"


def _table(table: Table) -> str:
    names = list(dict.fromkeys(name for case in table.cases.values() for name in case))
    names.sort(key=[*NAMES, *LIBRARIES].index)
    compared = [name for name in COMPARED if name in names and "sserpent" in names]
    rows = []
    for case, measured in table.cases.items():
        row = [case]
        row += [text(median(measured[name])) if name in measured else "" for name in names]
        for name in compared:
            known = name in measured and "sserpent" in measured
            row.append(times(ratio(table, case, name, "sserpent")) if known else "")
        rows.append(row)
    header = [table.unit, *(NAMES.get(name, name) for name in names)]
    header += [f"{NAMES[name]} ÷ `sserpent`" for name in compared]
    return f"### {table.name[0].upper()}{table.name[1:]}\n\n{_markdown(header, rows)}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(tables: Tables, path: Path) -> None:
    """Events per second over uvicorn, as multiples of fastapi.sse's."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    burst, turn = tables["uvicorn, burst"], tables["uvicorn, one event per loop turn"]
    kinds = {
        "tokens\n(raw_data)": (burst, "tokens"),
        "sync generator\nof models": (burst, "sync"),
        "dicts,\nno annotation": (burst, "dicts"),
        "annotated\nmodels": (burst, "models"),
        "ServerSentEvent\n(model, event, id)": (burst, "events"),
        "models, one per\nloop turn": (turn, "models"),
    }
    bars = {"sserpent": "#2f7d4f", "sse-starlette": "#c58b2a", "fastapi": "#8a8f98"}
    labels = {"fastapi": "fastapi.sse", "sse-starlette": "sse-starlette", "sserpent": "sserpent"}
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sserpent", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(7.6, 4.2), facecolor="#fbfbf8")
        axes.set_facecolor("#fbfbf8")
        for offset, (name, color) in enumerate(bars.items()):
            values = [
                ratio(table, case, "fastapi", name) if name != "fastapi" else 1.0
                for table, case in kinds.values()
            ]
            positions = [place + (offset - 1) * 0.27 for place in range(len(kinds))]
            drawn = axes.barh(positions, values, 0.27, color=color, label=labels[name])
            axes.bar_label(drawn, [f"{times(value)}x" for value in values], padding=3, fontsize=9)
        axes.set_yticks(range(len(kinds)), list(kinds))
        axes.invert_yaxis()
        axes.set_xlabel("events per second on uvicorn, fastapi.sse = 1")
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
