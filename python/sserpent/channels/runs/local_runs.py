"""The runs that this process produces, and their places within the limits of their owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._fastapi.limits import Slots
from ..history.position import HistoryKey
from .producer import Producer


class Place:
    """A run's place within the limits of its owner.

    Attributes:
        limits: Those that it counts in; none once it was given back, or taken over.
    """

    def __init__(self, limits: Mapping[Any, int]) -> None:
        self.limits = limits


class LocalRuns:
    """The runs that this process produces.

    Args:
        max_per_owner: How many of them one owner may have; None for any number.
    """

    def __init__(self, max_per_owner: int | None) -> None:
        self._max_per_owner = max_per_owner
        self._slots = Slots()
        self._produced: dict[Producer, tuple[HistoryKey, Place]] = {}
        self._places: dict[HistoryKey, Place] = {}  # of the newest producer of each run

    @property
    def producers(self) -> list[Producer]:
        """The runs that have not ended."""
        return list(self._produced)

    def take_place(self, owner: str | None, instead_of: HistoryKey | None) -> Place | None:
        """Takes a place for one more run of an owner, and returns None if there is none.

        Args:
            owner: Whose run it is; None belongs to nobody, and has no limit.
            instead_of: A run that was stopped for this one, whose place it gets.
        """
        former = None if instead_of is None else self._places.get(instead_of)
        if former is not None:
            limits, former.limits = former.limits, {}
            return Place(limits)
        most = None if owner is None else self._max_per_owner
        limits = {} if most is None else {owner: most}
        return Place(limits) if self._slots.take(limits) else None

    def give_back(self, place: Place) -> None:
        """Gives a place back, once."""
        self._slots.give_back(place.limits)
        place.limits = {}

    def add(self, run: HistoryKey, producer: Producer, place: Place) -> None:
        """Notes that a run begins."""
        self._produced[producer] = run, place
        self._places[run] = place

    def remove(self, producer: Producer) -> None:
        """Notes that a run has ended, and gives its place back."""
        produced = self._produced.pop(producer, None)
        if produced is None:
            return
        run, place = produced
        self.give_back(place)
        # A run that Redis has lost may have been started again meanwhile.
        if self._places.get(run) is place:
            del self._places[run]
