"""D16: the seam works whoever else wraps FastAPI, before or after sserpent is imported."""

import subprocess
import sys
import textwrap
from typing import Any

import pytest

# Who is recognised does not depend on the core.
pytestmark = pytest.mark.once

PROGRAM = """
import warnings
warnings.simplefilter("error", RuntimeWarning)
{before}
import sserpent
{after}
from collections.abc import AsyncIterator, Iterator
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from sserpent import EventSourceResponse

class Marked(EventSourceResponse):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.headers["x-engine"] = "sserpent"

app = FastAPI()
router = APIRouter()

@app.get("/async", response_class=Marked)
async def stream() -> AsyncIterator[int]:
    yield 1
    yield 2

@router.get("/sync", response_class=Marked)
def sync_stream() -> Iterator[int]:
    yield 1
    yield 2

@app.get("/plain")
def plain() -> list[int]:
    return [1]

app.include_router(router)
{instrument}
with TestClient(app) as client:
    for path in ("/async", "/sync"):
        response = client.get(path)
        assert response.status_code == 200, response.text
        assert response.text == "data: 1\\n\\ndata: 2\\n\\n", response.text
        assert response.headers["x-engine"] == "sserpent", "FastAPI streamed by itself"
    assert client.get("/plain").json() == [1]
"""

# By itself it would import each SDK that it finds here, for seconds, to wrap that too.
SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.fastapi import FastApiIntegration
from sentry_sdk.integrations.starlette import StarletteIntegration
sentry_sdk.init(
    "http://key@127.0.0.1:9/1",
    traces_sample_rate=1.0,
    auto_enabling_integrations=False,
    integrations=[StarletteIntegration(), FastApiIntegration()],
)
assert "sentry" in repr(__import__("fastapi").routing.get_request_handler)
"""
HIDDEN = """
import fastapi.routing
class Hides:
    def __init__(self, function):
        self.function = function
    def __call__(self, *args, **kwargs):
        assert not args
        return self.function(**kwargs)
fastapi.routing.get_request_handler = Hides(fastapi.routing.get_request_handler)
"""
WRAPPED = """
import fastapi.routing, functools
def wrap(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper
fastapi.routing.get_request_handler = wrap(wrap(fastapi.routing.get_request_handler))
"""
OPENTELEMETRY = """
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
FastAPIInstrumentor.instrument_app(app)
"""


def run(**parts: str) -> Any:
    program = PROGRAM.format(**{"before": "", "after": "", "instrument": "", **parts})
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("wrapper", [SENTRY, HIDDEN, WRAPPED], ids=["sentry", "hidden", "wrapped"])
def test_a_wrapped_handler_factory_is_recognised(wrapper: str, where: str) -> None:
    if wrapper is SENTRY:
        pytest.importorskip("sentry_sdk")
    ended = run(**{where: wrapper})
    assert ended.returncode == 0, ended.stderr


def test_opentelemetry_changes_nothing() -> None:
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    ended = run(instrument=OPENTELEMETRY)
    assert ended.returncode == 0, ended.stderr


def test_a_fastapi_that_lacks_a_parameter_is_still_seen_through_a_wrapper() -> None:
    lacking = textwrap.dedent("""
        import fastapi.routing
        original = fastapi.routing.get_request_handler
        def make():
            def get_request_handler(dependant, response_class): ...
            def wrapper(*args, **kwargs):
                return get_request_handler(*args, **kwargs)
            return wrapper
        fastapi.routing.get_request_handler = make()
    """)
    ended = run(before=lacking)
    assert "get_request_handler has no parameter" in ended.stderr
