"""For how long a run's producer that says nothing is taken to live."""

from __future__ import annotations

#: Seconds between two renewals of a producer's lease, and until one that is not renewed is over.
RENEWAL, DURATION = 5.0, 15.0
