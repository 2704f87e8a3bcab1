"""Finds the programs that the browser tests drive, and installs them where that is allowed.

They come from Debian: `python tests/support/browser_setup.py` installs what is missing. The
tests do the same by themselves for root, and in CI (CI=true), where a missing program is an
error; anywhere else they are skipped, with a message that says how to have them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Each program under the names it goes by, and Debian's package.
PROGRAMS = {
    "browser": (("chromium", "google-chrome", "chromium-browser"), "chromium"),
    "driver": (("chromedriver",), "chromium-driver"),
}


def find(program: str) -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS[program][0])), None)


def missing() -> list[str]:
    return [program for program in PROGRAMS if find(program) is None]


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def install(programs: list[str]) -> None:
    """Installs Debian's packages.

    Raises:
        RuntimeError: this is no Debian, or apt-get fails.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError("there is no apt-get here")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt_get = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    packages = [PROGRAMS[program][1] for program in programs]
    options = ["install", "--yes", "--no-install-recommends"]
    for command in ([*apt_get, "update"], [*apt_get, *options, *packages, "fonts-dejavu-core"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise RuntimeError(str(error)) from error
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def reason_to_skip() -> str | None:
    """Makes sure that the programs are there; returns why not, where that may be.

    Raises:
        RuntimeError: they are not, and this is CI.
    """
    if sys.platform != "linux":
        return "the browser tests know how to have a browser on Linux only"
    failure = ""
    if missing() and (in_ci() or os.geteuid() == 0):
        try:
            install(missing())
        except RuntimeError as error:
            failure = f"\n{error}"
    if not missing():
        return None
    absent = f"no {', '.join(missing())} here"
    if in_ci():
        raise RuntimeError(absent + failure)
    return f"{absent}: `python tests/support/browser_setup.py` installs them{failure}"


if __name__ == "__main__":
    if missing():
        try:
            install(missing())
        except RuntimeError as error:
            sys.exit(str(error))
    print("The browser tests have what they need.")
