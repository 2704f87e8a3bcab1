"""Builds sserpent and installs it into the environment of the Python that runs this.

Native and editable with a Rust toolchain; without one, the pure-Python wheel.
"""

import shutil
import subprocess
import sys
import tempfile

import pure_wheel


def main() -> None:
    if shutil.which("cargo"):
        run("maturin", "develop", "--release", "--quiet")
        return
    print("No Rust toolchain: installing sserpent in pure Python.")
    with tempfile.TemporaryDirectory() as directory:
        wheel = str(pure_wheel.build(directory))
        run("pip", "install", "--quiet", wheel)  # with what it depends on
        # The version may be the one that is installed, with other content.
        run("pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel)


def run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
