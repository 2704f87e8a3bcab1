"""The application that a page of the documentation builds, without the examples that it shows."""

import os
from pathlib import Path
from typing import Any

from pages import blocks

namespace: dict[str, Any] = {"__name__": "page"}
for code in blocks(Path(os.environ["PAGE"])):
    if not code.startswith('"""'):  # a file of its own
        exec(compile(code, "page", "exec", dont_inherit=True), namespace)
app = namespace["app"]
