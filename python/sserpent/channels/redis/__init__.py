"""Channels on Redis: for many processes and machines."""

from .broker import RedisLog
from .client.servers import Pace

__all__ = ["Pace", "RedisLog"]
