"""Rehearses a release: builds what can be built on this machine, and looks at each file.

`make release-check` runs it. The sdist, the native wheel and the pure wheel are built as for a
release, and on Linux the wheels of other processors and of musl are compiled with zig, for each
Rust target that is installed. Then:

- twine reads the metadata of all, and renders the README as PyPI does;
- each wheel has the license, and one with a binary has the list of the crates in it (SBOM);
- each wheel that runs here is installed into an environment of its own, and a stream is read.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import pure_wheel

# A Rust target for each kind of Linux, with the tag that its wheel gets.
LINUX = {
    "x86_64-unknown-linux-gnu": "manylinux2014",
    "aarch64-unknown-linux-gnu": "manylinux2014",
    "x86_64-unknown-linux-musl": "musllinux_1_2",
    "aarch64-unknown-linux-musl": "musllinux_1_2",
}
STREAM = """
import sserpent
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sserpent import EventSourceResponse

app = FastAPI()

@app.get("/", response_class=EventSourceResponse)
async def numbers():
    yield 1

assert "data: 1\\n\\n" in TestClient(app).get("/").text
print(sserpent.BACKEND)
"""


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    python("tools/dist.py", directory)
    if sys.platform == "linux":
        cross_compile(directory)
    files = sorted(directory.iterdir())
    python("-m", "twine", "check", "--strict", *files)
    problems = [problem for file in files for problem in missing(file)]
    for wheel in directory.glob("*.whl"):
        if runs_here(wheel):
            problems += streams(wheel)
        else:
            print(f"{wheel.name}: not installed, since it does not run here")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(files)} files of a release are in {directory}")


def cross_compile(directory: Path) -> None:
    rustup = shutil.which("rustup")
    listed = [rustup, "target", "list", "--installed"] if rustup else []
    installed = subprocess.run(listed, capture_output=True, text=True).stdout if listed else ""
    # maturin looks for zig and cargo-zigbuild there.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for target, tag in LINUX.items():
        if target not in installed.split():
            print(f"{target}: not built; `rustup target add {target}` makes it possible")
            continue
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        options = ["--release", "--locked", "--zig", "--target", target, "--compatibility", tag]
        options += ["--interpreter", version, "--out", str(directory)]
        python("-m", "maturin", "build", "--quiet", *options, PATH=path)


def missing(file: Path) -> list[str]:
    """Says what a file of a release lacks."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            names = wheel.namelist()
            bills = [json.loads(wheel.read(name)) for name in names if "/sboms/" in name]
        wanted = [r"\.dist-info/licenses/LICENSE$", r"/py\.typed$"]
        wanted += [] if is_pure(file) else [r"\.dist-info/sboms/.+\.json$"]
    else:
        with tarfile.open(file) as sdist:
            names, bills = sdist.getnames(), []
        wanted = [r"^[^/]+/LICENSE$", r"^[^/]+/README\.md$", r"^[^/]+/Cargo\.lock$"]
    problems = [
        f"{file.name}: nothing in it matches {pattern}"
        for pattern in wanted
        if not any(re.search(pattern, name) for name in names)
    ]
    for bill in bills:
        crates = {crate["name"] for crate in bill["components"]}
        problems += [f"{file.name}: its SBOM lacks {crate}" for crate in crates_of_core() - crates]
    return problems


def crates_of_core() -> set[str]:
    """Names the crates that Cargo.toml asks for, which the binary therefore holds."""
    cargo = (pure_wheel.ROOT / "Cargo.toml").read_text(encoding="utf-8")
    table = cargo.partition("[dependencies]\n")[2].partition("\n\n")[0]
    return {line.split(" ")[0] for line in table.splitlines()}


def streams(wheel: Path) -> list[str]:
    """Installs a wheel into an environment of its own, and reads a stream there."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        (binaries,) = (
            path for path in Path(directory).iterdir() if path.name in ("bin", "Scripts")
        )
        its_python = binaries / Path(sys.executable).name
        pip: list[str | Path] = [
            its_python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, f"{wheel}[testing]"], check=True)
        done = subprocess.run([its_python, "-c", STREAM], capture_output=True, text=True)
    expected = "python" if is_pure(wheel) else "rust"
    if done.stdout.strip() != expected:
        return [f"{wheel.name}: no stream of backend '{expected}': {done.stdout}{done.stderr}"]
    print(f"{wheel.name}: installed alone, it streams on backend '{expected}'")
    return []


def runs_here(wheel: Path) -> bool:
    if sys.platform != "linux" or is_pure(wheel):
        return True
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return libc in wheel.name and platform.machine() in wheel.name


def is_pure(file: Path) -> bool:
    return file.name.endswith("-none-any.whl")


def python(*arguments: str | Path, **environment: str) -> None:
    command: list[str | Path] = [sys.executable, *arguments]
    variables = {**os.environ, **environment}
    subprocess.run(command, cwd=pure_wheel.ROOT, env=variables, check=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve())
    except subprocess.CalledProcessError as error:
        sys.exit(f"this failed, its message is above: {' '.join(map(str, error.cmd))}")
