"""Builds what is published into a directory: the sdist, from it the native wheel for this
platform, and the wheel for every other platform."""

import subprocess
import sys

import pure_wheel


def main(destination: str) -> None:
    # `--compatibility pypi` refuses a wheel that PyPI would refuse: on Linux, one without a
    # manylinux or musllinux tag that the symbols it needs were checked against.
    options = ["--release", "--locked", "--sdist", "--compatibility", "pypi"]
    options += ["--interpreter", sys.executable, "--out", destination]
    command = [sys.executable, "-m", "maturin", "build", *options]
    subprocess.run(command, cwd=pure_wheel.ROOT, check=True)
    pure_wheel.build(destination)


if __name__ == "__main__":
    main(sys.argv[1])
