"""Channels on Redis: for many processes and machines."""

from .broker import RedisBroker
from .client.servers import Pace

__all__ = ["Pace", "RedisBroker"]
