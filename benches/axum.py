"""Builds the axum server, the outer limit: no contender, for it runs no Python at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .servers import ROOT


def built() -> Path | None:
    """The server's program; None, with a message, where it cannot be built."""
    target = ROOT / "target" / "axum-sse"
    manifest = ROOT / "benches" / "axum" / "Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--locked"]
    command += ["--manifest-path", str(manifest), "--target-dir", str(target)]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no axum row: {error}")
        return None
    return target / "release" / "axum-sse"
