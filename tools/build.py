"""Builds sserpent and installs it into the environment of the Python that runs this.

Native and editable with a Rust toolchain; without one, the pure-Python wheel.
"""

import shutil
import subprocess
import sys


def main() -> None:
    if shutil.which("cargo"):
        run("maturin", "develop", "--release", "--quiet")
    else:
        print("No Rust toolchain: installing sserpent in pure Python.")
        run("pip", "install", "--quiet", "--force-reinstall", "--no-deps", pure_wheel())


def pure_wheel() -> str:
    command = [sys.executable, "tools/pure_wheel.py", "dist"]
    return subprocess.check_output(command, text=True).strip()


def run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
