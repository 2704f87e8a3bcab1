"""Channels on Redis: for many processes and machines."""

from .log import RedisLog
from .servers import Pace

__all__ = ["Pace", "RedisLog"]
