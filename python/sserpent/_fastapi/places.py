"""How many streams there may be: of a class, in this process, in a channel, of one owner."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any


class Places:
    """Counts open streams, by whatever has a limit. Safe to use from any thread."""

    def __init__(self) -> None:
        # Reentrant: a finalizer that runs while it is held may give a place back.
        self._lock = threading.RLock()
        self._taken: Counter[Any] = Counter()

    def take(self, limits: Mapping[Any, int]) -> bool:
        """Takes a place under each limit, or none at all.

        Args:
            limits: How many places there are, for each of what has a limit.

        Returns:
            Whether there were places. They are then to be given back.
        """
        with self._lock:
            free = all(self._taken[each] < limit for each, limit in limits.items())
            if free:
                self._taken.update(limits.keys())
            return free

    def give_back(self, limits: Mapping[Any, int]) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._taken.subtract(limits.keys())
            for each in limits:
                if not self._taken[each]:
                    del self._taken[each]
