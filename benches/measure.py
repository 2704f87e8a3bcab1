"""What all benchmarks share: pairs of measurements, their ratios, and the processor cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median


@dataclass
class Table:
    """Measurements by case and contender. The n-th ones of a case belong together: they were
    taken right after each other."""

    name: str
    unit: str
    cases: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, case: str, contender: str, value: float) -> None:
        self.cases.setdefault(case, {}).setdefault(contender, []).append(value)


Tables = dict[str, Table]


def ratio(table: Table, case: str, above: str, below: str) -> float:
    """How many times as much `above` takes as `below`: the median of the pairs' ratios."""
    measured = table.cases[case]
    return ratio_of(measured[above], measured[below])


def ratio_of(above: Sequence[float], below: Sequence[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def rounds_of(contenders: Sequence[str], rounds: int) -> Iterator[str]:
    """The contenders in turn, every other round backwards, so that a drift of the machine's speed
    favours nobody."""
    for number in range(rounds):
        yield from contenders if number % 2 == 0 else reversed(contenders)


@cache
def cores() -> tuple[int | None, int | None]:
    """One processor core for the server and one for the client, where there are two and the
    system lets us choose: as it was before `pin` took the choice away."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        return None, None
    return available[0], available[1]


def pin(core: int | None) -> None:
    """Keeps this process on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})
