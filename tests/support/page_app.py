"""The application that a page of the documentation builds."""

import os
from pathlib import Path

from pages import run_blocks

app = run_blocks(Path(os.environ["PAGE"]))["app"]
