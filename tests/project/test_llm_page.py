"""The routes of the page on LLM applications, each read by the SDK that it is for."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import sdk_clients
from event_loops import asyncio_only
from pages import DOCS, all_blocks
from servers import TESTS, Server, uvicorn
from sserpent.testing import FakeUpstream, connect

# The SDKs and the server know nothing of the core.
pytestmark = [sdk_clients.IGNORED, pytest.mark.once, pytest.mark.timeout(120)]
collected_clients = sdk_clients.collected_clients

PROMPT: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(uvicorn("page_app:app"), PAGE=str(DOCS / "llm.md"))
    yield server
    print(server.log)
    server.close()


def test_openai_reads_the_chat_completion(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with client.chat.completions.create(model="mine", messages=PROMPT, stream=True) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "You said: Hi"
    with pytest.raises(openai.NotFoundError, match="There is no such model"):
        client.chat.completions.create(model="other", messages=PROMPT, stream=True)


def test_openai_reads_a_completion_that_it_does_not_ask_to_be_streamed(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/both/v1", api_key="none", max_retries=0)
    completion = client.chat.completions.create(model="mine", messages=PROMPT)
    assert completion.choices[0].message.content == "You said: Hi"
    with client.chat.completions.create(model="mine", messages=PROMPT, stream=True) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "You said: Hi"
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=PROMPT, stream=stream)


@asyncio_only
@pytest.mark.anyio
async def test_the_tokens_of_openai_end_at_the_provider_when_the_client_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    openai = pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("PAGE", str(DOCS / "llm.md"))
    page = runpy.run_path(str(TESTS / "support" / "page_app.py"))["namespace"]
    (code,) = [
        each.code for each in all_blocks(DOCS / "llm.md") if each.code.startswith("from openai")
    ]
    exec(compile(code, "page", "exec", dont_inherit=True), page)
    chunks = [page["chunk"]({"content": text}) for text in ("Hel", "lo")]
    upstream = FakeUpstream(
        [*(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks), math.inf]
    )
    async with connect(upstream) as provider, connect(page["app"]) as client:
        page["client"] = openai.AsyncOpenAI(http_client=provider.http, max_retries=0)
        completion = {"model": "mine", "messages": PROMPT}
        path = "/v1/chat/completions"
        async with client.events(path, method="POST", json=completion) as events:
            assert [(await events.next()).json() for _ in chunks] == chunks
            await events.leave()
        await upstream.requests[0].ended()
        assert upstream.requests[0].client_left


def test_openai_reads_a_completion_that_is_a_run_which_resumes_by_a_number(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/chats/1/v1", api_key="none", max_retries=0)
    completions = client.chat.completions.with_raw_response
    raw = completions.create(model="mine", messages=PROMPT, stream=True)
    with raw.parse() as chunks:
        deltas = [chunk.choices[0].delta.content for chunk in chunks]
    assert deltas == ["You said: ", "Hi", None]
    rest = httpx.get(f"{server.url}/completions/{raw.headers['Run-ID']}", params={"after": 0})
    assert "\nid:" not in f"\n{rest.text}"
    assert [each["choices"][0]["delta"].get("content") for each in data_of(rest)] == deltas[1:]
    no_place = httpx.get(f"{server.url}/completions/{raw.headers['Run-ID']}", params={"after": -1})
    assert no_place.status_code == 400
    assert no_place.json()["error"]["message"] == "The last event ID is not one of this run"
    beyond = httpx.get(f"{server.url}/completions/{raw.headers['Run-ID']}", params={"after": 999})
    assert beyond.status_code == 204
    with pytest.raises(openai.NotFoundError, match="There is no such model"):
        client.chat.completions.create(model="other", messages=PROMPT, stream=True)


def test_openai_reads_the_response_and_comes_back_for_a_part_of_it(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    events = list(client.responses.create(model="mine", input="Hi", stream=True))
    assert [event.sequence_number for event in events] == [0, 1, 2, 3, 4]
    assert events[-1].type == "response.completed"
    rest = client.responses.retrieve(events[0].response.id, stream=True, starting_after=1)
    assert [event.sequence_number for event in rest] == [2, 3, 4]


def test_anthropic_reads_the_message(server: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    with client.messages.stream(model="mine", messages=PROMPT, max_tokens=9) as stream:
        assert stream.get_final_text() == "You said: Hi"


def test_google_reads_the_content(server: Server) -> None:
    genai = pytest.importorskip("google.genai")
    options = genai.types.HttpOptions(base_url=server.url)
    client = genai.Client(api_key="none", http_options=options)
    chunks = client.models.generate_content_stream(model="mine", contents="Hi")
    assert "".join(chunk.text or "" for chunk in chunks) == "You said: Hi"


def test_langgraph_reads_the_run(server: Server) -> None:
    langgraph_sdk = pytest.importorskip("langgraph_sdk")
    client = langgraph_sdk.get_sync_client(url=server.url, api_key=None)
    parts = list(client.runs.stream("thread-1", "agent", input="Hi", stream_mode="values"))
    values = [part.data["text"] for part in parts if part.event == "values"]
    assert values == ["You said: ", "Hi"]


def data_of(response: httpx.Response) -> list[Any]:
    """The data of the events, each in one line, without the end mark."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_the_parts_of_the_chat_are_those_of_use_chat(server: Server) -> None:
    types = pytest.importorskip("pydantic_ai.ui.vercel_ai.response_types")
    adapter: Any = types
    message = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    url = f"{server.url}/api/chat"
    response = httpx.post(url, json={"id": "1", "messages": [message]})
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert response.text.endswith("data: [DONE]\n\n")
    by_type = {
        each.model_fields["type"].default: each
        for each in vars(adapter).values()
        if isinstance(each, type) and "type" in getattr(each, "model_fields", ())
    }
    parts = data_of(response)
    for part in parts:
        by_type[part["type"]].model_validate(part)
    assert "".join(part.get("delta", "") for part in parts) == "You said: Hi"
    assert httpx.get(f"{url}/1/stream").status_code == 204
    assert httpx.post(f"{url}/1/stop").status_code == 200


def test_the_events_of_the_agent_are_those_of_ag_ui(server: Server) -> None:
    core = pytest.importorskip("ag_ui.core")
    from pydantic import TypeAdapter

    body = {"threadId": "t", "runId": "r", "messages": PROMPT}
    events = data_of(httpx.post(f"{server.url}/agent", json=body))
    for event in events:
        TypeAdapter(core.Event).validate_python(event)
    assert [events[0]["type"], events[-1]["type"]] == ["RUN_STARTED", "RUN_FINISHED"]


@pytest.mark.parametrize("thread", ["a%20b", "%E6%97%A5", "a%0D%0AX-Mine:%201"])
def test_a_thread_of_langgraph_may_have_any_name(server: Server, thread: str) -> None:
    path = f"/threads/{thread}/runs/stream"
    response = httpx.post(f"{server.url}{path}", json={"input": "Hi"}, timeout=60)
    assert response.status_code == 200
    assert "event: end" in response.text
    assert "x-mine" not in response.headers
    again = httpx.get(f"{server.url}{response.headers['location']}", timeout=60)
    assert again.text == response.text
