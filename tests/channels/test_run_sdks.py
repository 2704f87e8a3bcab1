"""P12 to P20 with the SDKs of model providers as they are, on real servers, in memory and on
Redis."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

import sdk_clients
from event_loops import asyncio_only
from redis_server import RedisServer
from servers import Server, commands, until, uvicorn

pytestmark = sdk_clients.IGNORED
collected_clients = sdk_clients.collected_clients

Serve = Callable[..., Server]
TEXTS = ["first", "a", "b"]


class Ended(Exception):
    """The SDK has told of an end that is none: as its own error, or as an event."""


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(command: list[str] | None = None, **environment: str) -> Server:
        servers.append(Server(command or uvicorn("run_protocols_app:app"), **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
        server.process.kill()
        server.close()


@pytest.fixture
def server(broker: str, serve: Serve, request: pytest.FixtureRequest) -> Server:
    if broker == "memory":
        return serve()
    return serve(REDIS_URL=request.getfixturevalue("redis").url)


# What each SDK reads: the texts, and then an error or an end.


def chat(server: Server, kind: str, **options: Any) -> Iterator[str]:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0, timeout=60)
    stream = client.chat.completions.create(model=kind, messages=[], stream=True, **options)
    for chunk in stream:
        yield chunk.choices[0].delta.content


def responses(server: Server, kind: str, **options: Any) -> Iterator[str]:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0, timeout=60)
    yield from texts_of(client.responses.create(model=kind, input="", stream=True, **options))


def texts_of(events: Any) -> Iterator[str]:
    for event in events:
        if event.type == "response.failed":
            raise Ended(event.response.error.message)
        if event.type == "response.incomplete":
            return
        yield "first" if event.type == "response.created" else event.delta


def messages(server: Server, kind: str) -> Iterator[str]:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(api_key="x", base_url=server.url, max_retries=0, timeout=60)
    message = {"role": "user", "content": ""}
    stream = client.messages.create(model=kind, max_tokens=1, messages=[message], stream=True)
    for event in stream:
        if event.type == "message_stop":
            return
        yield "first" if event.type == "message_start" else event.delta.text


def google(server: Server, kind: str) -> Iterator[str]:
    genai = pytest.importorskip("google.genai")
    options = genai.types.HttpOptions(base_url=server.url)
    client = genai.Client(api_key="x", http_options=options)
    for chunk in client.models.generate_content_stream(model=kind, contents="x"):
        yield chunk.text


def langgraph(server: Server, kind: str) -> Iterator[str]:
    sdk = pytest.importorskip("langgraph_sdk")
    client = sdk.get_sync_client(url=server.url, api_key=None)
    for part in client.runs.stream("thread", kind, input={}):
        if part.event == "error":
            raise Ended(part.data["message"])
        if part.event == "end":
            return
        yield part.data["text"]


def vercel(server: Server, kind: str, user: str | None = None) -> Iterator[str]:
    """As `useChat`: each part is one of its types, and `[DONE]` is the end."""
    with httpx.stream(
        "POST", f"{server.url}/api/chat", json={"model": kind, "id": user}, timeout=60
    ) as response:
        yield from texts_of_parts(response)


def texts_of_parts(response: httpx.Response) -> Iterator[str]:
    types: Any = pytest.importorskip("pydantic_ai.ui.vercel_ai.response_types")
    kinds = {
        each.model_fields["type"].default: each
        for each in vars(types).values()
        if isinstance(each, type) and "type" in getattr(each, "model_fields", ())
    }
    response.raise_for_status()
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    opened, is_done = set[str](), False
    for data in data_of(response):
        assert not is_done, "nothing comes after it"
        is_done = data == "[DONE]"
        if is_done:
            continue
        part = json.loads(data)
        TypeAdapter(kinds[part["type"]]).validate_python(part, by_alias=True)
        if part["type"] == "start":
            yield "first"
        elif part["type"] == "text-start":
            opened.add(part["id"])
        elif part["type"] == "text-delta":
            assert part["id"] in opened
            yield part["delta"]
        elif part["type"] == "error":
            raise Ended(part["errorText"])
    assert is_done


def data_of(response: httpx.Response) -> Iterator[str]:
    return (line[6:] for line in response.iter_lines() if line.startswith("data: "))


def agui(server: Server, kind: str) -> Iterator[str]:
    """As AG-UI's client: each event is one of its types, in the order that it asks for."""
    core = pytest.importorskip("ag_ui.core")
    adapter: Any = TypeAdapter(core.Event)
    with httpx.stream("POST", f"{server.url}/agent", json={"model": kind}, timeout=60) as response:
        response.raise_for_status()
        state = "before"
        for data in data_of(response):
            event = adapter.validate_json(data)
            assert (event.type == "RUN_STARTED") == (state == "before")
            assert state != "over"
            if event.type == "RUN_STARTED":
                state = "running"
                yield "first"
            elif event.type == "TEXT_MESSAGE_START":
                state = "in a message"
            elif event.type == "TEXT_MESSAGE_CONTENT":
                assert state == "in a message"
                yield event.delta
            elif event.type == "TEXT_MESSAGE_END":
                state = "running"
            elif event.type == "RUN_ERROR":
                state = "over"
                raise Ended(event.message)
            else:
                assert (event.type, state) == ("RUN_FINISHED", "running")
                state = "over"
    assert state == "over"


READERS: dict[str, Callable[..., Iterator[str]]] = {
    "chat": chat,
    "responses": responses,
    "messages": messages,
    "google": google,
    "langgraph": langgraph,
    "vercel": vercel,
    "agui": agui,
}
each_protocol = pytest.mark.parametrize("protocol", READERS)


def outcome(texts: Iterator[str], seen: list[str] | None = None) -> tuple[list[str], str | None]:
    """The texts, and what the SDK has raised."""
    seen = [] if seen is None else seen
    try:
        seen.extend(texts)
    except Exception as error:
        return seen, f"{type(error).__name__}: {error}"
    return seen, None


@each_protocol
def test_p12_a_run_is_read_to_its_end(server: Server, protocol: str) -> None:
    assert outcome(READERS[protocol](server, "done")) == (TEXTS, None)


@pytest.mark.parametrize(
    ("kind", "message"), [("error", "Internal server error"), ("limited", "Slow down")]
)
@each_protocol
def test_p20_the_error_of_a_run_is_raised_with_what_the_client_may_know(
    server: Server, protocol: str, kind: str, message: str
) -> None:
    texts, error = outcome(READERS[protocol](server, kind))
    assert texts == TEXTS
    assert error is not None
    assert message in error
    assert "secret" not in error
    assert ("the password is secret" in server.log) == (kind == "error")


def read_in_thread(texts: Iterator[str]) -> tuple[threading.Thread, list[str], list[Any]]:
    """Reads in a thread, until the SDK says that there is no more."""
    seen: list[str] = []
    ends: list[Any] = []
    thread = threading.Thread(target=lambda: ends.append(outcome(texts, seen)[1]), daemon=True)
    thread.start()
    until(lambda: seen == TEXTS or ends, timeout=60)
    assert not ends
    return thread, seen, ends


def key_of(protocol: str) -> dict[str, str]:
    return {"user": "chat"} if protocol in ("chat", "responses") else {}


def call(server: Server, path: str, method: str = "GET", **params: Any) -> httpx.Response:
    return httpx.request(method, f"{server.url}{path}", params=params, timeout=60)


@pytest.mark.parametrize("protocol", ["chat", "responses", "vercel"])
def test_p16_a_run_is_stopped_by_its_key_and_its_reader_sees_an_end(
    server: Server, protocol: str
) -> None:
    thread, seen, ends = read_in_thread(READERS[protocol](server, "endless", user="chat"))
    assert outcome(READERS[protocol](server, "done", user="chat"))[1] is not None  # a 409
    assert call(server, f"/stop/{protocol}", "DELETE", key="chat").status_code == 200
    thread.join(60)
    assert (seen, ends) == (TEXTS, [None])
    assert outcome(READERS[protocol](server, "done", user="chat")) == (TEXTS, None)


@each_protocol
def test_p19_a_follower_of_a_server_that_ends_raises(serve: Serve, protocol: str) -> None:
    server = serve(GRACE="1")
    thread, seen, ends = read_in_thread(READERS[protocol](server, "endless"))
    server.process.send_signal(signal.SIGTERM)
    thread.join(60)
    assert seen == TEXTS
    assert len(ends) == 1
    assert ends[0] is not None


# hypercorn on Trio and granian give no way to the connection: there an error comes first.
@pytest.mark.once
@pytest.mark.parametrize("name", ["hypercorn", "hypercorn-trio", "granian"])
def test_p19_a_follower_of_another_server_that_ends_raises(serve: Serve, name: str) -> None:
    server = serve(command=commands("run_protocols_app:app")[name], GRACE="1")
    # LangGraph's comes back by itself, for longer than a test may take.
    readers = {name: read for name, read in READERS.items() if name != "langgraph"}
    reading = [read_in_thread(read(server, "endless")) for read in readers.values()]
    server.process.send_signal(signal.SIGTERM)
    for protocol, (thread, seen, ends) in zip(readers, reading, strict=True):
        thread.join(60)
        assert (protocol, seen) == (protocol, TEXTS)
        assert len(ends) == 1, protocol
        assert ends[0] is not None, protocol


@pytest.mark.parametrize("kind", ["done", "error", "limited", "slow"])
@pytest.mark.anyio
@asyncio_only
async def test_p12_the_asynchronous_client_of_openai_reads_runs(server: Server, kind: str) -> None:
    openai = pytest.importorskip("openai")

    chunks: list[str] = []
    events: list[str] = []
    options: dict[str, Any] = {"api_key": "x", "max_retries": 0, "timeout": 60}
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", **options) as client:
        try:
            stream = await client.chat.completions.create(model=kind, messages=[], stream=True)
            async for chunk in stream:
                chunks.append(chunk.choices[0].delta.content)  # noqa: PERF401
        except openai.APIError as error:
            chunks.append(error.message)
        async for event in await client.responses.create(model=kind, input="", stream=True):
            assert event.sequence_number == len(events)
            events.append(event.type)
    texts, last = {
        "done": (TEXTS, "response.output_text.delta"),
        "slow": ([*TEXTS, "c"], "response.output_text.delta"),
        "error": ([*TEXTS, "Internal server error"], "response.failed"),
        "limited": ([*TEXTS, "Slow down"], "response.failed"),
    }[kind]
    assert chunks == texts
    assert (len(events), events[-1]) == (len(texts), last)


def test_p18_use_chat_is_read_anew_after_a_reload(server: Server) -> None:
    call(server, "/begin/vercel/followed", "POST", key="chat")
    url = f"{server.url}/api/chat/chat/stream"
    with httpx.stream("GET", url, timeout=60) as response:
        assert list(texts_of_parts(response)) == [*TEXTS, "c"]
    until(lambda: httpx.get(url).status_code == 204)


def test_p12_a_responses_client_comes_back_by_its_number(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0, timeout=60)
    run_id = call(server, "/begin/responses/slow", "POST").json()

    def again(after: int) -> list[str]:
        return list(texts_of(client.responses.retrieve(run_id, stream=True, starting_after=after)))

    assert again(0) == ["a", "b", "c"]
    assert again(2) == ["c"]
    assert again(3) == []
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("unknown", stream=True)


def test_p16_a_chat_is_read_anew_by_its_key(server: Server) -> None:
    run_id = call(server, "/begin/chat/followed", "POST", key="chat").json()
    again = call(server, "/follow/chat", key="chat")
    assert again.text.count("data: {") == 4
    assert again.text.endswith("data: [DONE]\n\n")
    assert again.headers["run-id"] == run_id
    assert call(server, "/follow/chat", key="chat").status_code == 204


def test_p14_langgraph_comes_back_with_its_last_event_id(server: Server) -> None:
    sdk = pytest.importorskip("langgraph_sdk")
    run_id = call(server, "/begin/langgraph/slow", "POST").json()
    client = sdk.get_sync_client(url=server.url, api_key=None)
    parts = list(client.runs.join_stream("thread", run_id))
    assert [each.data["text"] for each in parts if each.event == "values"] == [*TEXTS, "c"]
    rest = list(client.runs.join_stream("thread", run_id, last_event_id=parts[1].id))
    assert [each.data["text"] for each in rest if each.event == "values"] == ["b", "c"]


def test_before_the_first_event_an_error_is_a_status(server: Server) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.RateLimitError):
        list(chat(server, "refused"))


# Several processes


@each_protocol
def test_p12_a_killed_producer_is_raised_by_who_reads_from_another_process(
    serve: Serve, redis: RedisServer, protocol: str
) -> None:
    one, other = serve(REDIS_URL=redis.url), serve(REDIS_URL=redis.url)
    run_id = call(one, f"/begin/{protocol}/endless", "POST", key="chat").json()
    until(lambda: call(other, f"/status/{protocol}/{run_id}").json()["events"] >= 3)
    one.process.kill()
    body = call(other, f"/follow/{protocol}", run_id=run_id).text
    assert "The answer was interrupted" in body
    assert call(other, f"/status/{protocol}/{run_id}").json()["state"] == "lost"
    assert call(other, f"/active/{protocol}/chat").json() is None
    assert call(other, f"/begin/{protocol}/done", "POST", key="chat").status_code == 200


@pytest.mark.parametrize("if_active", ["refuse", "join", "stop"])
def test_p16_of_ten_starts_at_once_in_three_processes_one_is_active(
    serve: Serve, redis: RedisServer, if_active: str
) -> None:
    servers = [serve(REDIS_URL=redis.url) for _ in range(3)]

    def start(number: int) -> httpx.Response:
        options = {"key": "chat", "if_active": if_active}
        return call(servers[number % 3], "/begin/chat/endless", "POST", **options)

    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(start, range(10)))
    active = call(servers[0], "/active/chat/chat").json()
    assert active is not None
    ids = [each.json() for each in answers if each.status_code == 200]
    if if_active == "refuse":
        assert ids == [active]
        assert [each.status_code for each in answers].count(409) == 9
    elif if_active == "join":
        assert ids == [active] * 10
    else:
        assert len(set(ids)) == 10

    def states() -> list[str]:
        return sorted(call(servers[1], f"/status/chat/{each}").json()["state"] for each in {*ids})

    until(lambda: states() == ["running", *["stopped"] * (len({*ids}) - 1)])
    if if_active != "stop":
        assert sum(len(call(each, "/entered").json()) for each in servers) == 1


def is_free(server: Server) -> bool:
    return call(server, "/active/chat/chat").json() is None


def test_p17_the_key_of_a_killed_process_is_free_when_its_lease_is_over(
    serve: Serve, redis: RedisServer
) -> None:
    one, other = serve(REDIS_URL=redis.url, LEASE="3"), serve(REDIS_URL=redis.url, LEASE="3")
    for _ in range(3):
        assert call(one, "/begin/chat/endless", "POST", key="chat").status_code == 200
        one.process.kill()
        refused = call(other, "/begin/chat/endless", "POST", key="chat")
        assert refused.status_code == 409
        until(partial(is_free, other))
        one, other = other, serve(REDIS_URL=redis.url, LEASE="3")


def test_p17_a_process_that_stalls_beyond_its_lease_has_lost_its_key(
    serve: Serve, redis: RedisServer
) -> None:
    one, other = serve(REDIS_URL=redis.url), serve(REDIS_URL=redis.url)
    old = call(one, "/begin/chat/endless", "POST", key="chat").json()
    one.process.send_signal(signal.SIGSTOP)
    until(lambda: call(other, "/begin/chat/endless", "POST", key="chat").status_code == 200)
    new = call(other, "/active/chat/chat").json()
    one.process.send_signal(signal.SIGCONT)
    until(lambda: call(other, f"/status/chat/{old}").json()["state"] in ("lost", "stopped"))
    assert call(one, "/active/chat/chat").json() == new


def test_p17_an_evicted_key_is_taken_back_by_its_run(serve: Serve, redis: RedisServer) -> None:
    server = serve(REDIS_URL=redis.url)
    run_id = call(server, "/begin/chat/endless", "POST", key="chat").json()
    [name] = [each for each in redis.names() if each.endswith(":key")]
    redis.ask("DEL", name)
    until(lambda: call(server, "/active/chat/chat").json() == run_id)
    assert call(server, "/begin/chat/done", "POST", key="chat").status_code == 409
    # Whatever else somebody writes there is nobody's key.
    garbage = "redis.call('DEL', KEYS[1]) redis.call('LPUSH', KEYS[1], 'garbage')"
    redis.ask("EVAL", garbage, 1, name)
    until(lambda: call(server, "/active/chat/chat").json() == run_id)
    assert call(server, "/stop/chat", "DELETE", key="chat").status_code == 200
    until(lambda: not [each for each in redis.names() if each.endswith(":key")])
