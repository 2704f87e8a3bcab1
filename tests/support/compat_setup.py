"""Has an SDK find `sserpent.compat.sse_starlette` where it looks for `sse_starlette`. It has to be
imported before the SDK is."""

from __future__ import annotations

import sys

from sserpent.compat import sse_starlette

for name in ("sse_starlette", "sse_starlette.sse", "sse_starlette.event"):
    sys.modules[name] = sse_starlette
