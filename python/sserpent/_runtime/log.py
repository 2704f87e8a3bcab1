"""The one logger of this package: applications configure `sserpent`."""

from __future__ import annotations

import logging

logger = logging.getLogger("sserpent")
