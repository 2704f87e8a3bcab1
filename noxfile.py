"""The tests that face FastAPI, on the releases that people have: `make test-matrix`.

Each FastAPI release is tested twice, with the oldest and with the newest Starlette and pydantic 2
that it allows, each time in an environment of its own with the wheel from `dist/`.
`make test-matrix FASTAPI="0.135.0 newest"` picks releases. Where FastAPI itself differs, the tests
name the difference next to the release that made it.
"""

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True

# The first with `fastapi.sse`, the ones on both sides of a change to it (0.136.2, 0.140.8,
# 0.140.12, 0.140.13, 0.145.0), and later ones at a distance.
RELEASES = "0.135.0 0.136.3 0.140.13 0.145.0 0.150.0 0.158.2 newest"


@nox.session
@nox.parametrize("others", ["oldest", "newest"])
@nox.parametrize("fastapi", os.environ.get("FASTAPI", RELEASES).split())
def matrix(session: nox.Session, fastapi: str, others: str) -> None:
    wheels = [path for path in Path("dist").glob("*.whl") if "none-any" not in path.name]
    if len(wheels) != 1:
        session.error(f"dist/ has {len(wheels)} native wheels, not one: run `make dist`")
    release = "fastapi" if fastapi == "newest" else f"fastapi=={fastapi}"
    session.install(release)
    release = f"fastapi=={version(session, 'fastapi')}"
    # A sdist of an old pydantic-core would need the Rust compiler of its time.
    resolution = ["--only-binary", ":all:", "--upgrade"]
    if others == "oldest":
        resolution += ["--resolution", "lowest-direct"]
    session.install(*resolution, release, "starlette", "pydantic>=2", str(wheels[0]))
    session.install("--group", "matrix")
    chosen = ", ".join(f"{name} {version(session, name)}" for name in ("starlette", "pydantic"))
    session.log(f"{release} with {chosen}")
    # Of an old release only: it may use what its own dependencies have deprecated since.
    options = ["--quiet", "-W", "default::DeprecationWarning", *session.posargs]
    names = ("fastapi_routes", "declared_events", "decorated_endpoints")
    tests = [f"tests/fastapi/test_{name}.py" for name in names]
    session.run("python", "-m", "pytest", *options, *tests)
    session.run("python", "-m", "pytest", *options, *tests, env={"SSERPENT_PURE": "1"})
    if others == "oldest" and fastapi in ("0.135.0", "newest"):
        # These hold both backends against FastAPI's encoder, or against the newest FastAPI where
        # that is what is there. The suite does it with the newest pydantic.
        tests = ["json", "json_mutating_values"]
        if fastapi == "newest":
            tests += ["event", "wire"]
        files = [f"tests/core/test_{name}.py" for name in tests]
        session.run("python", "-m", "pytest", *options, *files)
    if others == "oldest" and fastapi == "0.135.0":
        extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
        session.install(*resolution, *extras["redis"])
        session.log(f"redis-py {version(session, 'redis')}")
        files = [f"tests/channels/test_{name}.py" for name in ("broker", "redis")]
        session.run("python", "-m", "pytest", *options, *files)
        session.install("pip")
        # This Starlette does not deny a WebSocket with a stream; later ones do.
        denial = "tests/test_streaming_parity.py::test_call_whenWebsocketScope"
        session.run("python", "tools/sse_starlette_tests.py", "--deselect", denial)


def version(session: nox.Session, package: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version('{package}'))"
    return str(session.run("python", "-c", code, silent=True, log=False)).strip()
