"""Measurements that a busy machine does not decide.

The contenders take turns, every other round backwards, so that what disturbs the machine meets all
of them. Each turn is short. A case is measured until its numbers have settled, in half as many
rounds more at most: on a busy machine most go to that bound, and `make bench` is to take half an
hour there too. Where a server is measured, each turn is divided by its neighbour's, and the median
counts. Where work is timed in processor time, the minimum counts, because a disturbance only adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

# Measures once; returns a value for each table.
Turn = Callable[[], Sequence[float]]

# A share; what two runs may differ by beyond it is told apart by more rounds.
SETTLED = 0.02


@dataclass
class Table:
    """Measurements by case and contender. The n-th ones of a case are neighbours.

    Args:
        minima: Whether a contender's smallest measurement counts, not the median.
    """

    name: str
    unit: str
    minima: bool = False
    cases: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, case: str, contender: str, value: float) -> None:
        self.cases.setdefault(case, {}).setdefault(contender, []).append(value)

    def value(self, case: str, contender: str) -> float:
        return (min if self.minima else median)(self.cases[case][contender])

    def ratio(self, case: str, above: str, below: str) -> float:
        """How many times as much `above` takes as `below`."""
        return ratio((self, case, above), (self, case, below))

    def doubt(self, case: str, contender: str) -> float:
        """How far a further round may move a contender's number, as a share of it."""
        measured = self.cases[case][contender]
        if len(measured) < 3:
            return 1.0
        if self.minima:
            lowest, _, third = sorted(measured)[:3]
            return third / lowest - 1
        peer = next(iter(self.cases[case].values()))
        lower, middle, upper = quantiles(map(float.__truediv__, measured, peer), n=4)
        return (upper - lower) / middle / len(measured) ** 0.5


Tables = dict[str, Table]
Cell = tuple[Table, str, str]  # of which case, and which contender


def ratio(above: Cell, below: Cell) -> float:
    """How many times as much one cell is as another: of minima if both are, or else the median of
    the ratios of neighbours."""
    (table, case, name), (other_table, other_case, other_name) = above, below
    if table.minima and other_table.minima:
        return table.value(case, name) / other_table.value(other_case, other_name)
    pairs = zip(table.cases[case][name], other_table.cases[other_case][other_name], strict=False)
    return median(a / b for a, b in pairs)


def in_turns(tables: Sequence[Table], turns: Mapping[tuple[str, str], Turn], rounds: int) -> None:
    """Adds what the turns of cases and contenders measure, at least `rounds` times each."""
    unsettled = {case for case, _ in turns}
    for number in range(max(2, rounds + rounds // 2)):
        if number >= rounds:
            unsettled = {cell[0] for cell in turns if not _has_settled(tables, *cell)}
        for case, name in list(turns)[:: -1 if number % 2 else 1]:
            if case in unsettled:
                for table, value in zip(tables, turns[case, name](), strict=True):
                    table.add(case, name, value)


def _has_settled(tables: Sequence[Table], case: str, contender: str) -> bool:
    return all(table.doubt(case, contender) < SETTLED for table in tables)
