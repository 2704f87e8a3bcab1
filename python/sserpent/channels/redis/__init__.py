"""Channels on Redis: for many processes and machines."""

from .log import RedisLog
from .session import Pace

__all__ = ["Pace", "RedisLog"]
