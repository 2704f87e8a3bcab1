"""What is published, built and installed as users get it: sdist, native wheel, pure wheel."""

from __future__ import annotations

import ast
import email
import http.client
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from packaging.requirements import Requirement

import sserpent
from scripted_server import STREAM, nothing_to_come, scripted
from servers import Server

ROOT = Path(__file__).parents[2]
# Kept, so that of a next run the crates of others are built already.
TARGET = ROOT / "target" / "dist"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
WITHOUT_CARGO = os.pathsep.join(
    folder for folder in os.get_exec_path() if not shutil.which("cargo", path=folder)
)

# One run of these covers both wheels; a second one under SSERPENT_PURE=1 would see nothing new.
needs_cargo = pytest.mark.skipif(
    sserpent.BACKEND != "rust", reason="builds wheels: runs once, with the compiled core"
)

# Building takes its time, most of all on a machine that has built nothing yet.
pytestmark = pytest.mark.timeout(900)

# Before a command that takes a core for long: the tests that run beside it go first, but do not
# keep it waiting for their end.
NICE = ["nice", "-n", "5"] if shutil.which("nice") else []

APP = """
from collections.abc import AsyncIterable, Iterable

from fastapi import FastAPI
from pydantic import BaseModel

import sserpent
from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()


class Item(BaseModel):
    name: str


@app.get("/items", response_class=EventSourceResponse)
async def items() -> AsyncIterable[Item]:
    for name in "abc":
        yield Item(name=name)


@app.get("/backend", response_class=EventSourceResponse)
def backend() -> Iterable[ServerSentEvent]:
    yield ServerSentEvent(raw_data=f"{sserpent.BACKEND} {sserpent.__version__}", id="1")
"""


def run(*command: str | Path, **options: object) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return str(done.stdout)


class Dist(NamedTuple):
    directory: Path
    sdist: Path
    native: Path
    pure: Path


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Dist:
    """What `make dist` makes."""
    directory = made_once(tmp_path_factory, "dist", build)
    (pure,) = directory.glob("*-none-any.whl")
    (native,) = set(directory.glob("*.whl")) - {pure}
    (sdist,) = directory.glob("*.tar.gz")
    assert len(list(directory.iterdir())) == 3
    return Dist(directory, sdist, native, pure)


def build(directory: Path) -> None:
    # Cargo goes by the times of files, which an sdist does not keep.
    ours = ["--package", "sserpent", "--package", "sserpent-wire"]
    run("cargo", "clean", "--release", *ours, "--target-dir", TARGET, cwd=ROOT)
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    command = [*NICE, sys.executable, ROOT / "tools" / "dist.py", directory]
    run(*command, cwd=directory, env=environment)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that one worker makes, for all of them."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with FileLock(base / f"{name}.lock"):
        if not (base / name).exists():
            making = factory.mktemp(name)
            make(making)
            making.rename(base / name)
    return base / name


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def fields(wheel: Path) -> list[tuple[str, str]]:
    found = metadata(wheel)
    items = [(name, normal(name, value)) for name, value in found.items()]
    return [*sorted(items), ("description", str(found.get_payload()).strip())]


def normal(name: str, value: str) -> str:
    """Returns a value as any builder writes it: they differ in the quotes of markers."""
    return str(Requirement(value)) if name == "Requires-Dist" else value


def is_binary(name: str) -> bool:
    return name.endswith((".so", ".pyd", ".dylib", ".dll"))


@needs_cargo
def test_native_wheel_holds_one_binary_and_a_tag_that_pypi_takes(dist: Dist) -> None:
    assert len([name for name in contents(dist.native) if is_binary(name)]) == 1
    if sys.platform == "linux":
        assert re.search(r"-(many|musl)linux_\d+_\d+_\w+\.whl$", dist.native.name)


@needs_cargo
def test_pure_wheel_is_the_native_one_without_its_binary(dist: Dist) -> None:
    assert dist.pure.name.endswith("-py3-none-any.whl")
    assert not any(is_binary(name) or "__pycache__" in name for name in contents(dist.pure))
    pure = {name for name in contents(dist.pure) if not is_binary(name)}
    # The SBOM lists the crates in the binary.
    native = {
        name for name in contents(dist.native) if not is_binary(name) and "/sboms/" not in name
    }
    assert pure == native
    assert "sserpent/py.typed" in pure
    assert any(name.endswith("/licenses/LICENSE") for name in pure)


@needs_cargo
@pytest.mark.parametrize("kind", ["native", "pure"])
def test_e10_a_wheel_has_the_skill_for_coding_agents(dist: Dist, kind: str) -> None:
    assert "sserpent/.agents/skills/sserpent/SKILL.md" in contents(getattr(dist, kind))


@needs_cargo
def test_both_wheels_have_the_same_metadata(dist: Dist) -> None:
    assert metadata(dist.pure)["Name"] == "sserpent"
    assert fields(dist.pure) == fields(dist.native)


@needs_cargo
def test_sdist_holds_the_sources_and_the_lock_file_and_nothing_built(dist: Dist) -> None:
    with tarfile.open(dist.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "LICENSE", "README.md", "PKG-INFO"}
    for folder in ("rust", "python/sserpent"):
        expected |= {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not is_binary(path.name) and "__pycache__" not in path.parts
        }
    assert names == expected


@needs_cargo
def test_sdist_builds_from_its_lock_file(dist: Dist, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MATURIN_PEP517_ARGS": "--locked",
        # The crates that the lock file names are there since `dist` was built.
        "CARGO_NET_OFFLINE": "true",
        "CARGO_TARGET_DIR": str(TARGET),
    }
    command = [*NICE, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, dist.sdist]
    run(*command, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    assert any(is_binary(name) for name in contents(wheel))
    assert fields(wheel) == fields(dist.native)


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(
        tmp_path_factory, "environment", lambda path: run(sys.executable, "-m", "venv", path)
    )


@pytest.fixture
def environment(new_environment: Path, tmp_path: Path) -> Path:
    """The folder of a virtual environment that has pip alone."""
    return shutil.copytree(new_environment, tmp_path / "environment", symlinks=True)


def python_of(environment: Path) -> Path:
    return environment / SCRIPTS / ("python.exe" if os.name == "nt" else "python")


def assert_streams(
    environment: Path, serve: Callable[..., Server], backend: str, **variables: str
) -> None:
    """Serves an application from an environment and reads its streams."""
    python = python_of(environment)
    # From outside the environment, where the checkout's sources cannot be imported by accident.
    folder = environment.parent
    (folder / "installed.py").write_text(APP)
    command = [str(python), "-m", "uvicorn", "installed:app", "--port", "{port}"]
    server = serve(command, cwd=folder, PYTHONPATH="", **variables)
    assert get(server, "/items") == b"".join(b'data: {"name":"%c"}\n\n' % c for c in b"abc")
    version = sserpent.__version__
    assert get(server, "/backend") == f"data: {backend} {version}\nid: 1\n\n".encode()


def get(server: Server, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


@needs_cargo
def test_native_wheel_streams(dist: Dist, environment: Path, serve: Callable[..., Server]) -> None:
    run(*PIP, "--python", python_of(environment), "install", dist.native, "uvicorn")
    assert_streams(environment, serve, "rust")


@needs_cargo
def test_pure_wheel_streams_where_there_is_no_compiler(
    dist: Dist, environment: Path, serve: Callable[..., Server]
) -> None:
    path = str(environment / SCRIPTS)
    variables = {**os.environ, "PATH": path}
    python = python_of(environment)
    run(python, "-m", "pip", "--quiet", "install", dist.pure, "uvicorn", env=variables)
    assert_streams(environment, serve, "python", PATH=path)


READER = """
import importlib.util, sys
import httpx2
from sserpent.client import SyncEventSource

assert not any(map(importlib.util.find_spec, ("fastapi", "starlette", "pydantic")))
with httpx2.Client() as client, SyncEventSource(client, sys.argv[1], retry=0.0) as source:
    print(*[event.data for event in source])
"""


@needs_cargo
@pytest.mark.parametrize("kind", ["native", "pure"])
def test_r26_a_reader_needs_neither_fastapi_nor_pydantic(
    dist: Dist, environment: Path, kind: str
) -> None:
    python = python_of(environment)
    run(*PIP, "--python", python, "install", "httpx2")
    run(*PIP, "--python", python, "install", "--no-deps", getattr(dist, kind))
    folder = environment.parent  # without the checkout's sources
    with scripted([STREAM, b"id: 1\ndata: a\n\n"], nothing_to_come()) as server:
        assert run(python, "-c", READER, server.url, cwd=folder) == "a\n"
    with scripted([STREAM, b"retry: 1\ndata: b\n\n"], nothing_to_come()) as server:
        command = environment / SCRIPTS / "sserpent"
        assert run(command, "tail", server.url, cwd=folder).endswith("  -  message  b\n")


@pytest.mark.once  # it builds the pure wheel, with either backend
def test_build_without_cargo_installs_the_pure_wheel(environment: Path) -> None:
    python = python_of(environment)
    variables = {**os.environ, "PATH": WITHOUT_CARGO, "PIP_NO_DEPENDENCIES": "1"}
    run(python, ROOT / "tools" / "build.py", env=variables, cwd=ROOT)
    shown = run(python, "-m", "pip", "show", "--files", "sserpent")
    assert f"Version: {sserpent.__version__}" in shown
    assert "pure.py" in shown
    assert not any(is_binary(line) for line in shown.split())


def offered(dist: Dist, destination: Path, *options: str) -> str:
    """The name of the file that pip takes out of `dist`."""
    offer = ["download", "--no-index", "--no-deps", "--find-links", dist.directory]
    run(*PIP, *offer, "--dest", destination, *options, "sserpent")
    (taken,) = destination.iterdir()
    return taken.name


@needs_cargo
def test_pip_prefers_the_native_wheel(dist: Dist, tmp_path: Path) -> None:
    assert offered(dist, tmp_path) == dist.native.name


@needs_cargo
@pytest.mark.parametrize(
    "platform",
    [
        ["--platform", "win_arm64", "--python-version", "3.13"],
        ["--platform", "musllinux_1_2_riscv64", "--python-version", "3.10"],
        ["--platform", "macosx_11_0_arm64", "--implementation", "pp", "--python-version", "3.11"],
    ],
    ids=lambda platform: platform[1],
)
def test_pip_takes_the_pure_wheel_where_no_binary_fits(
    dist: Dist, tmp_path: Path, platform: list[str]
) -> None:
    taken = offered(dist, tmp_path, "--only-binary", ":all:", *platform)
    assert taken == dist.pure.name


def cargo_version() -> str:
    match = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def test_newest_changelog_entry_is_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)
    assert entries[0] == cargo_version()


def test_importing_sserpent_loads_nothing_that_fastapi_has_not() -> None:
    code = "import sys, fastapi; before = set(sys.modules); from sserpent import *; "
    loaded = run(sys.executable, "-c", code + "print(*set(sys.modules) - before)").split()
    assert "sserpent._delivery" in loaded
    assert [name for name in loaded if name.partition(".")[0] != "sserpent"] == []


def declared(*tables: str) -> set[str]:
    """Returns the names of the distributions in lists of pyproject.toml, as they are imported."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [
        re.findall(rf"^{table} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL) for table in tables
    ]
    names = [re.findall(r'"([\w-]+)', each) for (each,) in lists]
    return {name.replace("-", "_") for each in names for name in each}


def imported() -> set[str]:
    """Returns the names of others that the package imports, type checkers' imports aside."""
    names: set[str] = set()
    for path in (ROOT / "python").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in outside_type_checking(tree):
            if isinstance(node, ast.Import):
                names.update(each.name.partition(".")[0] for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"sserpent"}


def outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING":
            for other in each.orelse:
                yield from outside_type_checking(other)
        else:
            yield from outside_type_checking(each)


def test_what_is_imported_is_declared() -> None:
    needed = declared("dependencies")
    assert needed == {"anyio", "fastapi", "pydantic", "pydantic_core", "starlette"}
    extras = declared("testing", "redis", "prometheus", "opentelemetry")
    # Trio, where an application runs on it; httpx, where it is given in the place of httpx2.
    optional = {each.removesuffix("_api").removesuffix("_client") for each in extras}
    assert imported() - optional - {"prometheus_client", "trio", "httpx"} == needed


def test_importing_sserpent_leaves_the_gil_off() -> None:
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("needs a free-threaded Python")
    code = "import sys, sserpent; print(sserpent.BACKEND, sys._is_gil_enabled())"
    assert run(sys.executable, "-c", code).split() == [sserpent.BACKEND, "False"]
