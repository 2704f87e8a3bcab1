"""Programs of Debian's that tests run."""

from __future__ import annotations

import os
import shutil
import sys

import pytest


def program(name: str, package: str) -> str:
    """Returns the path of a program. Where there is none the test is skipped; in CI that is an
    error.

    Args:
        name: Of the program.
        package: Debian's, which has it.
    """
    # Debian's servers are where the path of an ordinary user does not lead.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        if os.environ.get("CI") and sys.platform == "linux":
            raise RuntimeError(f"{name} is missing: install Debian's package {package}")
        pytest.skip(f"{name} is not installed: Debian's package {package} has it")
    return found
