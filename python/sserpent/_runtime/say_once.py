"""Says once in the log why a broker refuses something."""

from __future__ import annotations

from ..channels.history.broker import BrokerError, Refused
from .log import logger


class Complaint:
    """Logs why something waits for the broker, once for each reason. That a broker is away it logs
    itself, for all who wait.

    Args:
        message: Of the log, with a "%s" for the name and one for the reason.
        name: Of what waits.
    """

    def __init__(self, message: str, name: str) -> None:
        self._message = message
        self._name = name
        self._reason = ""

    def log(self, error: BrokerError) -> None:
        reason = str(error)
        if isinstance(error, Refused) and reason != self._reason:
            self._reason = reason
            logger.warning(self._message, self._name, reason)

    def forget(self) -> None:
        """Has the next reason logged even if it is the last one again."""
        self._reason = ""
