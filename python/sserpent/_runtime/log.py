"""The one logger of this package: applications configure `sserpent`."""

from __future__ import annotations

import logging

logger = logging.getLogger("sserpent")


class SayOnce:
    """Logs why something waits, once for each reason in a row.

    Args:
        message: Of the log, with a "%s" for the name and one for the reason.
        name: Of what waits.
    """

    def __init__(self, message: str, name: str) -> None:
        self._message = message
        self._name = name
        self._reason = ""

    def warn(self, reason: str) -> None:
        """Logs a warning with a reason, unless the last one had the same reason."""
        if reason != self._reason:
            self._reason = reason
            logger.warning(self._message, self._name, reason)

    def forget(self) -> None:
        """Has the next reason logged even if it is the last one again."""
        self._reason = ""
