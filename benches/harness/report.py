"""Writes a run's results: as a page, as the README's table and as a plot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Any

from benches.delivery import mixed
from benches.goals import BURST, GOALS, MEMORY, ONE_PUBLISH, TURN, Goal, name_of

from .callgrind import BY_LIBRARY
from .timing import Table, Tables

# PyPI shows the README too, and knows no files beside it.
RESULTS = "https://github.com/sserpent/sserpent/blob/main/benches/RESULTS.md"

# Floors and limits are no contenders: they get no ratio beside their measurement.
FLOORS = ("joined", "asgi", "to_json", "memchr", "copied")
# What the plot and the README show, with the table and the case of each.
SHOWN = {
    "burst of pydantic models, annotated": (BURST, "models"),
    "burst of `ServerSentEvent(data=model, event, id)`": (BURST, "events"),
    'burst of `ServerSentEvent(raw_data=" token")`': (BURST, "tokens"),
    "burst of dicts, no annotation": (BURST, "dicts"),
    "burst of dicts with UUID and datetime": (BURST, "records"),
    "sync generator of models": (BURST, "sync"),
    "one event per turn of the event loop": (TURN, "models"),
}

MIXED = f"""\
## Plain requests beside many streams

One uvicorn process serves {mixed.STREAMS:,} open streams, with an event a second each, and
{mixed.RATE} plain JSON requests a second. This is how long the plain requests take.
"""
BACKENDS = """\
## Events per CPU second

How many events a second of CPU time sends, relative to `fastapi.sse`, on uvicorn. 100x means: the
server needs a hundredth of the CPU time for the same stream.
"""

ABOUT = """\
Every case is first checked: what a client decodes must be right, for every contender. Calls are
timed by pytest-benchmark (`make bench-calls`), in processor time, and the fastest round counts,
since a disturbance only adds. Elsewhere contenders take turns, every other round backwards, and
rounds go on until the numbers have settled; the median counts, and a ratio is the median of the
ratios of neighbours, not the ratio of medians. All single measurements are in [`results.json`](https://github.com/sserpent/sserpent/blob/main/benches/results.json).

Whole-server runs: the server runs in a process of its own on one core, a raw-socket client that
only counts on another. Measured is the server's processor time, from which events per second follow
where it has nothing else to do. "Burst" is a generator that always has another event; "one event
per loop turn" awaits `asyncio.sleep(0)` after each; "paced" streams wait between their events.
Who takes part:

- `fastapi.sse` and `sserpent`: the same application code, only the import differs.
- `sserpent`, pure Python: the same with `SSERPENT_PURE=1`. The delivery engine is the same; events,
  framing and the buffer are in Python.
- `sse-starlette`: dicts with JSON of `model_dump_json()`, `json.dumps` or `orjson.dumps`.
- hand-framed: `StreamingResponse` whose generator yields `b"data: %b\\n\\n" % to_json(item)`.
- 100 events a chunk: the same, but joined by hand: the floor of a burst.
- bare ASGI: no framework and no generator, a loop that calls `send`: the floor of trickling events
  and of idle connections.

Reading: each decoder gets the same chunks, in the same process, and must find the same events. A
decoder that is quadratic does not read the large ones. One `memchr` pass is `bytes.find` of what is
not there, over each chunk. "Joined and decoded" is `b"".join(chunks).decode()`, without a look at
lines.

Calls are timed as loops in one function, so that the call of that function does not count.
"Instructions" are what callgrind counts between two runs of the same work, one three times as long.
While it counts, a chunk of a burst ends by its bytes, never by the clock, which would count the
speed of valgrind.

Runs: a token is yielded every 20 ms in each of 40 streams. Streamed, the generator is the route's
own; as a run it is kept in this process or on Redis, and followed by one client.
"""


def number(value: float) -> str:
    """Four significant digits, never in exponents."""
    digits = max(0, 4 - len(str(int(value))))
    return f"{value:,.{digits}f}"


def times(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(tables: Tables, about: dict[str, Any]) -> str:
    """The whole of RESULTS.md."""
    parts = ["# Benchmark results\n", _machine(about), _mixed(tables), BACKENDS]
    parts += [_backends(tables), "## Goals\n", goals(tables)]
    missed: dict[str, list[str]] = {}
    for goal, value in measured(tables):
        if not goal.is_met(value):
            missed.setdefault(goal.why(tables), []).append(f"{goal.work}, {goal.versus}")
    if missed:
        lines = [f"- {'; '.join(works)}: {why}.\n" for why, works in missed.items()]
        parts += ["## Missed goals, and why\n", "".join(lines)]
    parts += ["## How it is measured\n", ABOUT]
    parts += ["## All tables\n", *(table_of(table) for table in tables.values())]
    return "\n".join(parts)


def _machine(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    again = "".join(
        f"Measured by itself on {date}: `python -m benches.run full {stage}`.\n\n"
        for stage, date in about.get("stages", {}).items()
    )
    return (
        f"{about['date']}, {about['cpu']}, {about['cores']} cores,"
        f" in {about['minutes']} minutes; load average before the run: {about['load']}.\n\n"
        f"{versions}.\n\n{again}"
        "`make bench` writes this page, and `make bench-quick` measures the core of it."
        " `make bench-compare` compares the code with these results: by instructions if valgrind is"
        " installed, or else by the ratios of a quick run.\n"
    )


def goals(tables: Tables) -> str:
    rows = []
    for goal, value in measured(tables):
        verdict = "met" if goal.is_met(value) else "**missed**"
        rows.append([goal.work, goal.versus, goal.limit, number(value), verdict])
    return markdown(["work", "ratio", "goal", "measured", ""], rows)


def measured(tables: Tables) -> Iterator[tuple[Goal, float]]:
    """The goals that the run has measured: there may be no Redis."""
    for goal in GOALS:
        with suppress(KeyError):
            yield goal, goal.value(tables)


def _mixed(tables: Tables) -> str:
    """How long plain requests take beside many streams; empty if the run has not measured that."""
    measured = [
        tables[name] for name in map(mixed.name_of_table, mixed.PERCENTILES) if name in tables
    ]
    rows = [
        [name_of(name), *(f"{number(table.value(mixed.CASE, name))} ms" for table in measured)]
        for name in (mixed.CONTENDERS if measured else ())
    ]
    head = ["streams served by", *(f"p{percentile}" for percentile in mixed.PERCENTILES)]
    return f"{MIXED}\n{markdown(head, rows)}" if rows else ""


def _backends(tables: Tables) -> str:
    rows = []
    for label, (table, case) in SHOWN.items():
        native = tables[table].ratio(case, "fastapi", "sserpent")
        pure = tables[table].ratio(case, "fastapi", "sserpent-pure")
        rows.append([label, f"{times(native)}x", f"{times(pure)}x"])
    with suppress(KeyError):
        typed = tables[BURST].ratio("named", "fastapi", "typed")
        label = "burst of typed events, of three types, which `fastapi.sse` does not check"
        rows.append([label, f"{times(typed)}x", ""])
    return markdown(["", "Rust", "pure Python"], rows)


def table_of(table: Table) -> str:
    """Each cell a contender's measurement, and how many times sserpent's it is."""
    names = list(dict.fromkeys(name for case in table.cases.values() for name in case))
    rows = []
    for case, measured in table.cases.items():
        row = [case]
        for name in names:
            text = number(table.value(case, name)) if name in measured else ""
            if text and "sserpent" in measured and name not in ("sserpent", *FLOORS):
                text += f" ({times(table.ratio(case, name, 'sserpent'))}x)"
            row.append(text)
        rows.append(row)
    heads = names if table.name == BY_LIBRARY else [name_of(name) for name in names]
    title = f"{table.name[0].upper()}{table.name[1:]}"
    return f"### {title}\n\n{markdown([table.unit, *heads], rows)}"


def readme(tables: Tables, about: dict[str, Any], text: str) -> str:
    """The README with this run's figures between its two marks."""
    turn = tables[TURN].ratio("models", "sserpent", "hand")
    send = round(100 * tables[TURN].ratio("models", "asgi", "sserpent"))
    ((case, _),) = tables[MEMORY].cases.items()
    memory = round(100 * tables[MEMORY].ratio(case, "sserpent", "fastapi"))
    publish, count = ONE_PUBLISH
    theirs, ours = (
        tables[publish].ratio(count, name, "sserpent") for name in ("fastapi", "queues")
    )
    written = f"""\
Events per CPU second on uvicorn, relative to `fastapi.sse` (`make bench` of {about["date"]}):

{_backends(tables)}
{_mixed_line(tables)}- Single events take {times(turn)} times the CPU time that they take in a
  hand-written `StreamingResponse`. A bare loop over the server's `send` takes {send} % of that.
- An idle connection takes {memory} % of the memory that it takes with `fastapi.sse`.
- Sending one event to {count} clients is {times(theirs)} times as fast through a channel as with
  `fastapi.sse` and a queue for each client, and {times(ours)} times as fast as with sserpent
  and such queues.

Every figure, how it was measured, and which goals were missed:
[benches/RESULTS.md]({RESULTS}) (`make bench`).
"""
    marks = "(<!-- written by make bench -->\n).*(<!-- end -->)"
    return re.sub(marks, lambda found: found[1] + written + found[2], text, flags=re.DOTALL)


def _mixed_line(tables: Tables) -> str:
    """The latency of plain requests beside many streams, in a sentence."""
    table = tables.get(mixed.name_of_table(95))
    if table is None:
        return ""
    ours, theirs = (_duration(table.value(mixed.CASE, name)) for name in ("sserpent", "fastapi"))
    return (
        f"- Beside {mixed.STREAMS:,} open streams, 95 % of plain JSON requests are answered within"
        f" {ours};\n  beside as many of `fastapi.sse`, within {theirs}.\n"
    )


def _duration(milliseconds: float) -> str:
    """Returns a duration as one would say it."""
    value, unit = (milliseconds, "ms") if milliseconds < 1000 else (milliseconds / 1000, "s")
    return f"{value:.{1 if value < 10 else 0}f} {unit}"


def plot(tables: Tables, path: Path) -> None:
    """Events per second over uvicorn, as multiples of fastapi.sse's."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    bars = {"sserpent": "#2f7d4f", "sse-starlette": "#c58b2a", "fastapi": "#8a8f98"}
    labels = [fill(label.replace("`", ""), 36) for label in SHOWN]
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sserpent", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(7.6, 4.8), facecolor="#fbfbf8")
        axes.set_facecolor("#fbfbf8")
        for offset, (name, color) in enumerate(bars.items()):
            values = [tables[table].ratio(case, "fastapi", name) for table, case in SHOWN.values()]
            positions = [place + (offset - 1) * 0.27 for place in range(len(labels))]
            drawn = axes.barh(positions, values, 0.27, color=color, label=name_of(name).strip("`"))
            axes.bar_label(drawn, [f"{times(value)}x" for value in values], padding=3, fontsize=9)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("events per second of the server's processor time, fastapi.sse = 1")
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
