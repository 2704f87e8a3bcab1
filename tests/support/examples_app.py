"""All examples, as they are, with a shorter race: three rounds show what ten do."""

import live
from app import app

live.ROUNDS = 3

__all__ = ["app"]
