"""Installs what the demo runs, and no more, into an environment of its own, and runs it.

What `make demo` calls. It needs Python alone; with a Rust toolchain the core is compiled, beside
pip's downloads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pure_wheel

REQUIREMENTS = ["fastapi>=0.135", "uvicorn>=0.30", "httptools", "httpx", "httpx2"]
if sys.platform != "win32":
    REQUIREMENTS.append("uvloop")
# One to build with, as pyproject.toml has it.
MATURIN = "maturin>=1.9.4,<2"
ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-demo"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    has_cargo = shutil.which("cargo") is not None
    if not PYTHON.exists():
        with step("a Python environment in .venv-demo", "3 s"):
            venv.create(ENVIRONMENT, with_pip=True)
    with tempfile.TemporaryDirectory() as wheels:
        if has_cargo:
            with step("maturin, which builds the wheel", "5 s"):
                pip("install", "--quiet", MATURIN)
        log = Path(wheels, "maturin.log")
        packages = "FastAPI, uvicorn and httpx" + (
            "; the core in Rust beside it" if has_cargo else ""
        )
        with step(packages, "a minute" if has_cargo else "15 s"):
            building = start_building(wheels, log) if has_cargo else None
            pip("install", "--quiet", *REQUIREMENTS, *redis_packages())
            if building is not None and building.wait():
                sys.exit(f"{log.read_text()}\ncargo could not build the core; its message is above")
        if not has_cargo:
            print(
                "      no Rust toolchain (rustup.rs): the core in pure Python sends the same bytes"
            )
            with step("the pure-Python wheel", "5 s"):
                pure_wheel.build(wheels)
        with step("sserpent", "2 s"):
            (wheel,) = Path(wheels).glob("*.whl")
            pip("install", "--quiet", "--force-reinstall", "--no-deps", str(wheel))
    print(flush=True)
    os.chdir(ROOT)
    sys.exit(subprocess.run([PYTHON, ROOT / "examples" / "demo.py"]).returncode)


@contextmanager
def step(what: str, about: str) -> Iterator[None]:
    """Says what is being installed and about how long that takes, and then how long it took."""
    print(f"  ... {what} (about {about})", end="", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f": {time.monotonic() - started:.0f} s", flush=True)


def start_building(wheels: str, log: Path) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [
        PYTHON,
        "-m",
        "maturin",
        "build",
        "--release",
        "--quiet",
        "--interpreter",
        PYTHON,
    ]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "--out", wheels], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )


def redis_packages() -> list[str]:
    """Returns the clients of Redis, if there is one for the live pages to run on."""
    has_redis = "REDIS_URL" in os.environ or shutil.which("redis-server") is not None
    return ["redis>=5.1", "hiredis>=3"] if has_redis else []


def pip(*arguments: str) -> None:
    command: list[str | Path] = [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit("pip could not install that; its message is above")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
