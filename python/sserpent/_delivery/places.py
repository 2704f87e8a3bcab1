"""How many streams there may be: of a class, in this process, in a channel, of one owner."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any


class Places:
    """Counts the open streams, by whatever has a limit. Safe to use from any thread."""

    def __init__(self) -> None:
        # Reentrant: a finalizer that runs while it is held may give a place back.
        self._lock = threading.RLock()
        self._taken: Counter[Any] = Counter()

    @contextmanager
    def taken(self, limits: Mapping[Any, int]) -> Generator[bool, None, None]:
        """Takes a place under each limit, or none at all, for as long as the context lasts.

        Args:
            limits: How many places there are, for each of what has a limit.

        Returns:
            Whether there were places.
        """
        with self._lock:
            free = all(self._taken[each] < limit for each, limit in limits.items())
            if free:
                self._taken.update(limits.keys())
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._taken.subtract(limits.keys())
                    for each in limits:
                        if not self._taken[each]:
                            del self._taken[each]
