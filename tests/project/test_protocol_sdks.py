"""The SDKs of the model providers read the classes of `sserpent.protocols` from a real server: to
the end, and through every way in which a stream goes wrong. None may take a part for the whole.

Each is imported where it is used: they are large.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import sdk_clients
from event_loops import asyncio_only
from servers import Server, uvicorn

pytestmark = [
    sdk_clients.IGNORED,
    pytest.mark.anyio,
    pytest.mark.once,  # each of these takes long, and the bytes are tested with both cores
    # Some of these clients leave their connections to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
collected_clients = sdk_clients.collected_clients

#: What a reader returns: the text, and the names or types of what came.
Read = Callable[[str], Iterator[str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(uvicorn("protocols_app:app", "--timeout-graceful-shutdown", "10"))
    yield server
    server.close()


def openai_chat(url: str) -> Iterator[str]:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
    messages: Any = [{"role": "user", "content": "Hi"}]
    for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
        yield chunk.choices[0].delta.content or ""


def openai_responses(url: str) -> Iterator[str]:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
    for number, event in enumerate(client.responses.create(model="m", input="Hi", stream=True)):
        assert event.sequence_number == number
        if event.type == "response.failed":
            raise openai.APIError(event.response.error.message, request=None, body=None)  # type: ignore[union-attr, arg-type]
        yield event.delta if event.type == "response.output_text.delta" else ""


def anthropic_messages(url: str) -> Iterator[str]:
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
    messages: Any = [{"role": "user", "content": "Hi"}]
    with client.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
        for event in stream:
            yield event.text if event.type == "text" else ""
        assert stream.get_final_message().stop_reason == "end_turn"


def google_genai(url: str) -> Iterator[str]:
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=url)
    client = genai.Client(api_key="k", http_options=options)
    for part in client.models.generate_content_stream(model="m", contents="Hi"):
        yield part.text or ""


def lang_graph(url: str) -> Iterator[str]:
    from langgraph_sdk import get_sync_client

    client = get_sync_client(url=url, api_key="k")
    for part in client.runs.stream(None, "agent", input={}, stream_mode="values"):
        if part.event == "error":
            raise RuntimeError(part.data["message"])
        yield part.data.get("text", "") if part.data else ""


def use_chat(url: str) -> Iterator[str]:
    """As `useChat`: each part is one of its types, and an error is one."""
    from pydantic import TypeAdapter
    from pydantic_ai.ui.vercel_ai import response_types

    kinds = {
        each.model_fields["type"].default: each
        for each in vars(response_types).values()
        if isinstance(each, type)
        and issubclass(each, response_types.BaseChunk)
        and "type" in each.model_fields
    }
    data: list[str] = []
    with httpx.stream("POST", f"{url}/api/chat", timeout=30) as response:
        response.raise_for_status()
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            assert data[-1:] != ["[DONE]"], "nothing comes after it"
            data.append(line[6:])
            if data[-1] != "[DONE]":
                part = json.loads(data[-1])
                TypeAdapter(kinds[part["type"]]).validate_python(part, by_alias=True)
                if part["type"] == "error":
                    raise RuntimeError(part["errorText"])
                yield part.get("delta", "")
    assert data[-1] == "[DONE]"


def ag_ui(url: str) -> Iterator[str]:
    from ag_ui.core import Event
    from pydantic import TypeAdapter

    adapter: Any = TypeAdapter(Event)
    finished = False
    with httpx.stream("POST", f"{url}/agent", timeout=30) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: "):
                assert not finished, "its client refuses anything after the end"
                event = adapter.validate_json(line[6:])
                finished = event.type in ("RUN_FINISHED", "RUN_ERROR")
                if event.type == "RUN_ERROR":
                    raise RuntimeError(event.message)
                yield getattr(event, "delta", "")
    assert finished


READERS: list[Read] = [
    openai_chat,
    openai_responses,
    anthropic_messages,
    google_genai,
    lang_graph,
    use_chat,
    ag_ui,
]
pytest_readers = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


def events_until_an_error(read: Read, url: str) -> tuple[list[str], BaseException]:
    events: list[str] = []
    try:
        for event in read(url):
            events.append(event)  # noqa: PERF402
    except AssertionError:
        raise
    except Exception as error:  # each SDK has its own
        return events, error
    raise AssertionError(f"it took {events} for the whole")


@pytest_readers
def test_it_reads_to_the_end(server: Server, read: Read) -> None:
    assert "".join(read(f"{server.url}/whole")).startswith("Hello")


@pytest_readers
def test_it_sees_an_exception_and_none_of_its_words(server: Server, read: Read) -> None:
    events, error = events_until_an_error(read, f"{server.url}/raises")
    assert len(events) >= 1
    assert "Internal server error" in str(error)
    assert "secret" not in str(error)


@pytest_readers
def test_it_sees_the_detail_of_a_refusal(server: Server, read: Read) -> None:
    events, error = events_until_an_error(read, f"{server.url}/refuses")
    assert len(events) >= 1
    assert "slow down" in str(error)
    assert "slow down" not in server.log


@pytest_readers
def test_it_sees_a_status_before_the_first_event(server: Server, read: Read) -> None:
    events, error = events_until_an_error(read, f"{server.url}/before")
    assert events == []
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    response = getattr(error, "response", None)
    assert 429 in (status, getattr(response, "status_code", None))


@pytest_readers
def test_it_does_not_take_a_part_for_the_whole(server: Server, read: Read) -> None:
    events, _ = events_until_an_error(read, f"{server.url}/cut")
    assert "".join(events) in ("", "Hel")


@pytest.mark.parametrize("read", [openai_chat, use_chat], ids=lambda read: read.__name__)
def test_it_reads_a_gateway_that_says_done_itself(server: Server, read: Read) -> None:
    assert "".join(read(f"{server.url}/gateway")) == "Hello"


def test_no_sdk_takes_a_server_that_ends_for_the_whole(serve: Any) -> None:
    server = serve(uvicorn("protocols_app:app"))
    streams = [read(f"{server.url}/open") for read in READERS]
    for stream in streams:
        next(stream)
    os.kill(server.process.pid, signal.SIGTERM)
    for read, stream in zip(READERS, streams, strict=True):
        rest: Read = functools.partial(lambda stream, url: stream, stream)
        assert "".join(events_until_an_error(rest, read.__name__)[0]) == ""


@asyncio_only
async def test_the_asynchronous_client_of_openai(server: Server) -> None:
    import openai

    async def read(how: str) -> list[str]:
        url = f"{server.url}/{how}/v1"
        messages: Any = [{"role": "user", "content": "Hi"}]
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            create = client.chat.completions.create
            stream = await create(model="m", messages=messages, stream=True)
            return [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert "".join(await read("whole")) == "Hello"
    for how in ("raises", "refuses", "before", "cut"):
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            await read(how)
