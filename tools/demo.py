"""Installs what the demo runs, and no more, into an environment of its own, and runs it.

`make demo` runs it. It needs Python alone. With a Rust toolchain it begins on the pure core, and
goes on with the compiled one when cargo is done: that takes a minute of one processor.
`SSERPENT_PURE=1 make demo` stays with the pure one.
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

REQUIREMENTS = ["fastapi>=0.135", "uvicorn>=0.30", "httptools", "httpx", "httpx2"]
if sys.platform != "win32":
    REQUIREMENTS.append("uvloop")
# One to build with, as pyproject.toml has it.
MATURIN = "maturin>=1.9.4,<2"
ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-demo"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    is_pure = os.environ.get("SSERPENT_PURE") == "1"
    has_cargo = shutil.which("cargo") is not None
    if not PYTHON.exists():
        with step("a Python environment in .venv-demo", "3 s"):
            venv.create(ENVIRONMENT, with_pip=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as wheels:
        if has_cargo and not is_pure:
            demonstrate_both(wheels)
        else:
            reason = "SSERPENT_PURE=1" if is_pure else "no Rust toolchain (rustup.rs)"
            print(f"  {reason}: the core in pure Python sends the same bytes")
            install_requirements()
            install_pure(wheels)
            demonstrate()


def demonstrate_both(wheels: str) -> None:
    """Shows the examples on the pure core while cargo compiles the other one, then that."""
    with step("maturin, which builds the core in Rust", "5 s"):
        pip("install", MATURIN)
    with Building(wheels) as building:
        install_requirements(" (and cargo compiles the core)")
        halves = ["examples", "speed"]
        if building.goes_on():
            install_pure(wheels)
            demonstrate(halves.pop(0))
        with step("sserpent with its core in Rust, once cargo has compiled it", "30 s"):
            building.finish()
            install_wheel(wheels, "*-cp*.whl")
    demonstrate(*halves)


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


class Building:
    """A build of the native wheel, in a process that runs beside pip and the first examples."""

    def __init__(self, wheels: str) -> None:
        self._log = Path(wheels, "maturin.log")
        command: list[str | Path] = [PYTHON, "-m", "maturin", "build", "--release", "--quiet"]
        command += ["--interpreter", PYTHON, "--out", wheels]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def goes_on(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> None:
        if self._process.wait():
            log = self._log.read_text(encoding="utf-8", errors="replace")
            sys.exit(f"{log}\ncargo could not build the core; its message is above")


def demonstrate(*halves: str) -> None:
    """Runs the demo, or a half of it, and ends with it if it fails."""
    print(flush=True)
    done = subprocess.run([PYTHON, ROOT / "examples" / "demo.py", *halves], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def install_requirements(beside: str = "") -> None:
    with step(f"FastAPI, uvicorn and httpx{beside}", "15 s"):
        # What is imported is compiled then: a third of the modules, and of the time.
        pip("install", "--no-compile", *REQUIREMENTS, *redis_packages())


def redis_packages() -> list[str]:
    """Returns the clients of Redis, if there is one for the live pages to run on."""
    has_redis = "REDIS_URL" in os.environ or shutil.which("redis-server") is not None
    return ["redis>=5.1", "hiredis>=3"] if has_redis else []


def install_pure(wheels: str) -> None:
    with step("sserpent with its core in pure Python", "4 s"):
        # In the environment, since not every Python has pip.
        command: list[str | Path] = [PYTHON, ROOT / "tools" / "pure_wheel.py", wheels]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit("the pure-Python wheel could not be built; the message is above")
        install_wheel(wheels, "*-none-any.whl")


def install_wheel(wheels: str, pattern: str) -> None:
    (wheel,) = Path(wheels).glob(pattern)
    # The version may be the one that is installed, with another core.
    pip("install", "--force-reinstall", "--no-deps", str(wheel))


def pip(*arguments: str) -> None:
    command: list[str | Path] = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if subprocess.run([*command, *arguments], cwd=ROOT).returncode:
        sys.exit("pip could not install that; its message is above")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
