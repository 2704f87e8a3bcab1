"""Times each call of each contender with pytest-benchmark: `pytest benches`, or `make bench-calls`.

A group is one work of one case, so its contenders stand together. What a contender makes is
checked before it is timed. All run in one process, with both of our cores, in processor time: a
clock counts what others take too.

pytest-benchmark calls a function again and again, and that call takes as long as making an event.
So a function makes many: its time is that of the events that the group's name tells.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from . import reading
from .core import calls

pytestmark = pytest.mark.benchmark(timer=time.thread_time)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each contender of each case of a work."""
    if "contender" in metafunc.fixturenames:
        work = metafunc.function.__name__.removeprefix("test_")
        pairs = [(case, name) for case, names in contenders(work).items() for name in names]
        metafunc.parametrize(("case", "contender"), pairs)


def contenders(work: str) -> dict[str, Any]:
    if work == reading.NAME:
        return {case: found.works for case, found in reading.cases().items()}
    return calls.CALLS[work]


def timed(benchmark: Any, work: str, case: str, contender: str) -> None:
    # A large one takes as long as many small ones.
    events = 10 if "100" in case or "10 KB" in case else 1000
    benchmark.group = f"{work}: {case}, {events:,} events"
    benchmark.extra_info.update(work=work, case=case, contender=contender, events=events)
    benchmark(calls.CALLS[work][case][contender], events)


def test_construct(benchmark: Any, case: str, contender: str) -> None:
    calls.check_construct(case, contender)
    timed(benchmark, "construct", case, contender)


def test_frame(benchmark: Any, case: str, contender: str) -> None:
    calls.check_event("frame", case, contender)
    timed(benchmark, "frame", case, contender)


def test_encode(benchmark: Any, case: str, contender: str) -> None:
    calls.check_event("encode", case, contender)
    timed(benchmark, "encode", case, contender)


def test_push(benchmark: Any, case: str, contender: str) -> None:
    calls.check_push(case, contender)
    timed(benchmark, "push", case, contender)


def test_to_json(benchmark: Any, case: str, contender: str) -> None:
    """pydantic-core alone, below which nothing that writes a model's JSON can be."""
    calls.check_to_json(case, contender)
    timed(benchmark, "to_json", case, contender)


def test_parse(benchmark: Any, case: str, contender: str) -> None:
    reading.check(case, contender)
    events, works = reading.cases()[case]
    benchmark.group = f"parse: {case}, {events:,} events"
    benchmark.extra_info.update(work="parse", case=case, contender=contender, events=events)
    benchmark(works[contender])


def test_fastapis_way_is_that_of_its_router() -> None:
    calls.check_fastapi_encode()
