"""A mark for tests whose reference is the newest FastAPI: sserpent behaves like it on every
supported release, so on an older one they would compare with the wrong thing."""

from __future__ import annotations

import re

import fastapi
import pytest

_VERSION = tuple(map(int, re.findall(r"\d+", fastapi.__version__)[:3]))

# The last change to what `fastapi.sse` sends: NaN and infinities become null.
newest_fastapi = pytest.mark.skipif(
    _VERSION < (0, 145, 0), reason=f"FastAPI {fastapi.__version__} is not the reference"
)
