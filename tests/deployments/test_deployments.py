"""What `docs/deployment.md` promises of each server and proxy, with the configuration there."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from debian import program
from deployments import (
    COMMANDS,
    PROXIES,
    RESULTS,
    Deployment,
    Result,
    block,
    make_certificate,
)
from http2_connection import Http2Connection
from redis_server import RedisServer
from servers import until

# Its servers do not care which backend makes the bytes.
pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

Deploy = Callable[..., Deployment]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    make_certificate(folder)
    return folder


@pytest.fixture(scope="module")
def deploy(
    kept_redis: RedisServer, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deploy]:
    """Runs a deployment, or says which one runs already: one at a time."""
    running: dict[tuple[str, ...], Deployment] = {}

    def run(name: str, edit: tuple[str, str] = ("", ""), server: str = "uvicorn") -> Deployment:
        key = name, *edit, server
        if key not in running or not running[key].is_running():
            while running:
                running.popitem()[1].close()
            folder = tmp_path_factory.mktemp("deployment")
            for file in certificate.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            running[key] = Deployment(name, folder, kept_redis.url, edit, server)
        return running[key]

    yield run
    for deployment in running.values():
        deployment.close()


class Stream:
    """A client's stream, and the key by which the application knows it."""

    def __init__(
        self, client: httpx.Client, path: str, last_event_id: str = "", encoding: str = "identity"
    ) -> None:
        self.key = f"{os.getpid()}-{next(_numbers)}"
        headers = {"Accept-Encoding": encoding}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        request = client.build_request("GET", path.format(key=self.key), headers=headers)
        self.response = client.send(request, stream=True)
        assert self.response.status_code == 200, self.response
        self._lines = self.response.iter_lines()

    def read(self, expected: str) -> None:
        """Reads up to a line."""
        for line in self._lines:
            if line == expected:
                return
        raise AssertionError(f"the stream ended before {expected!r}")

    def read_id(self) -> str:
        """Reads the next id."""
        for line in self._lines:
            if line.startswith("id: "):
                return line.removeprefix("id: ")
        raise AssertionError("the stream ended before an id")

    def read_data(self) -> int:
        """Reads the data of the next event."""
        for line in self._lines:
            if line.startswith("data: "):
                return int(line.removeprefix("data: "))
        raise AssertionError("the stream ended before an event")

    def is_whole(self) -> bool:
        """Reads to the end, and returns whether the client takes the body for complete."""
        try:
            for _ in self._lines:
                pass
        except (httpx.RemoteProtocolError, httpx.ReadError):
            return False
        return True


def name_of(result: Result) -> str:
    return f"{result.name}, {result.protocol}"


def of(results: list[Result]) -> pytest.MarkDecorator:
    """Has a test take these results, and pytest run all tests of one beside each other."""
    return pytest.mark.parametrize("result", results, ids=name_of, scope="module")


all_results = of(RESULTS)
# Each deployment once: for tests after which it has to be started again.
last_results = list({each.name: each for each in RESULTS}.values())
over_http2 = of([each for each in RESULTS if each.protocol == "HTTP/2"])


def test_every_command_and_proxy_of_the_page_has_a_result() -> None:
    untested = {"daphne"}
    assert {each.name for each in RESULTS} == (COMMANDS.keys() - untested) | PROXIES.keys()
    for name in PROXIES:
        protocols = [each.protocol for each in RESULTS if each.name == name]
        assert protocols == ["HTTP/1.1", "HTTP/2"], name


@all_results
def test_events_arrive_one_by_one(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    with deployment.client(result.protocol) as client:
        stream = Stream(client, "/silent/{key}")
        assert stream.response.http_version == result.protocol
        # The application sends no further event before it is told of this one.
        for number in range(4):
            stream.read(f"data: {number}")
            deployment.tell(stream.key, number)
        assert stream.is_whole()


@all_results
def test_last_event_id_gets_through(deploy: Deploy, result: Result) -> None:
    with deploy(result.name).client(result.protocol) as client:
        Stream(client, "/pinging/{key}", last_event_id="41").read("data: 42")


@all_results
def test_a_subscriber_that_comes_back_gets_what_it_missed(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    with deployment.client("HTTP/1.1") as publisher:

        def publish(number: int) -> None:
            publisher.post(f"/numbers/{number}").raise_for_status()

        with deployment.client(result.protocol) as client:
            stream = Stream(client, "/numbers")
            publish(1)
            last = stream.read_id()
            stream.read("data: 1")
        publish(2)
        with deployment.client(result.protocol) as client:
            stream = Stream(client, "/numbers", last_event_id=last)
            stream.read("data: 2")
            publish(3)
            stream.read("data: 3")


@of([each for each in RESULTS if each.name == "nginx"])
def test_n3_a_client_that_missed_too_much_gets_the_state_through_nginx(
    deploy: Deploy, result: Result
) -> None:
    deployment = deploy(result.name)

    def read_state(stream: Stream) -> tuple[str, int]:
        event_id = stream.read_id()
        stream.read("event: snapshot")
        return event_id, stream.read_data()

    with deployment.client("HTTP/1.1") as publisher, deployment.client(result.protocol) as client:
        stream = Stream(client, "/board")
        last, state = read_state(stream)
        publisher.post("/board/3").raise_for_status()
        with deployment.client(result.protocol) as another:
            kept = Stream(another, "/board", last_event_id=last)
            assert [kept.read_data() for _ in range(3)] == [1, 1, 1]
        # More than what is kept.
        publisher.post("/board/500").raise_for_status()
        with deployment.client(result.protocol) as another:
            late = Stream(another, "/board", last_event_id=last)
            assert read_state(late)[1] == state + 503
            publisher.post("/board/1").raise_for_status()
            assert late.read_data() == 1


# Silence


@all_results
def test_keep_alives_hold_an_idle_stream(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    with (
        deployment.client(result.protocol) as pinged_client,
        deployment.client(result.protocol) as silent_client,
    ):
        pinged = Stream(pinged_client, "/pinging/{key}")
        silent = Stream(silent_client, "/silent/{key}")
        silent.read("data: 0")
        if result.silence == "never":
            # Three seconds, and longer than any timeout that is set.
            for _ in range(12):
                pinged.read(": ping")
            deployment.tell(silent.key, 0)
            silent.read("data: 1")
        else:
            # It is cut before its next event, which it is never told to send.
            silent.is_whole()
            until(lambda: deployment.has_noticed(silent.key))
        deployment.tell(pinged.key, 0)
        pinged.read("data: 1")


# Clients that leave


@all_results
def test_a_client_that_leaves_is_noticed(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    kind = "silent" if result.leaving == "at once" else "pinging"
    with deployment.client(result.protocol) as client:
        stream = Stream(client, f"/{kind}/{{key}}")
        stream.read("data: 0")
        assert not deployment.has_noticed(stream.key)
    until(lambda: deployment.has_noticed(stream.key))


@over_http2
def test_a_stream_is_left_while_its_connection_goes_on(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    kind = "silent" if result.leaving == "at once" else "pinging"
    keys = [f"{os.getpid()}-{next(_numbers)}" for _ in range(2)]
    with Http2Connection(deployment.port, deployment.trust()) as connection:
        left, kept = (connection.get(f"/{kind}/{key}") for key in keys)
        for number in (left, kept):
            connection.read_until(lambda n=number: b"data: 0\n" in connection.bodies[n])
        connection.leave(left)
        until(lambda: deployment.has_noticed(keys[0]))
        deployment.tell(keys[1], 0)
        connection.read_until(lambda: b"data: 1\n" in connection.bodies[kept])


@over_http2
def test_so_many_streams_share_a_connection(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    at_once = int(result.at_once.removesuffix(" tested"))
    keys = [f"{os.getpid()}-{next(_numbers)}" for _ in range(at_once + 1)]
    with Http2Connection(deployment.port, deployment.trust()) as connection:
        *streams, further = (connection.get(f"/pinging/{key}") for key in keys)
        for key, stream in zip(keys, streams, strict=False):
            connection.read_until(lambda n=stream: b"data: 0\n" in connection.bodies[n])
            deployment.tell(key, 0)
            connection.read_until(lambda n=stream: b"data: 1\n" in connection.bodies[n])
        if not result.at_once.endswith("tested"):
            assert connection.bodies[further] == b""
            for number in range(1, 4):
                deployment.tell(keys[0], number)
        connection.read_until(lambda: b"data: 0\n" in connection.bodies[further])


# Compression

# Before which line of its configuration each proxy is told to compress.
COMPRESSED = {
    "nginx": "location / {",
    "HAProxy": "    default_backend app\n",
    "Apache": "    SSLEngine on\n",
    "Caddy": "    reverse_proxy",
}


@of([each for each in last_results if each.name in PROXIES])
def test_events_arrive_one_by_one_where_the_proxy_compresses(
    deploy: Deploy, result: Result
) -> None:
    before = COMPRESSED[result.name]
    added = block(f"Compression in {result.name}")
    deployment = deploy(result.name, (before, added + before))
    for protocol in ("HTTP/1.1", "HTTP/2"):
        with deployment.client(protocol) as client:
            document = client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
            stream = Stream(client, "/pinging/{key}", encoding="gzip")
            compressed = [
                each.headers.get("content-encoding") for each in (document, stream.response)
            ]
            # What the block names is compressed, and nothing else.
            assert compressed == ([None, "gzip"] if "event-stream" in added else ["gzip", None])
            for number in range(4):
                stream.read(f"data: {number}")
                deployment.tell(stream.key, number)
            assert stream.is_whole()


@all_results
def test_z2_compressed_events_arrive_one_by_one(deploy: Deploy, result: Result) -> None:
    deployment = deploy(result.name)
    with deployment.client(result.protocol) as client:
        stream = Stream(client, "/compressed/{key}", encoding="gzip")
        assert stream.response.headers["content-encoding"] == "gzip"
        for number in range(4):
            stream.read(f"data: {number}")
            deployment.tell(stream.key, number)
        assert stream.is_whole()


@all_results
def test_z4_a_compressed_subscriber_that_comes_back_gets_what_it_missed(
    deploy: Deploy, result: Result
) -> None:
    deployment = deploy(result.name)
    with deployment.client("HTTP/1.1") as publisher, deployment.client(result.protocol) as client:

        def publish(number: int) -> None:
            publisher.post(f"/numbers/{number}").raise_for_status()

        first = Stream(client, "/compressed-numbers", encoding="gzip")
        publish(1)
        last = first.read_id()
        first.read("data: 1")
        publish(2)
        with deployment.client(result.protocol) as another:
            second = Stream(another, "/compressed-numbers", last, encoding="gzip")
            second.read("data: 2")
            for number in range(3, 30):
                publish(number)
                for stream in (first, second):
                    assert stream.response.headers["content-encoding"] == "gzip"
                    stream.read(f"data: {number}")


@of([each for each in last_results if each.name in PROXIES])
def test_z2_what_is_compressed_already_no_proxy_compresses_again(
    deploy: Deploy, result: Result
) -> None:
    before = COMPRESSED[result.name]
    deployment = deploy(result.name, (before, block(f"Compression in {result.name}") + before))
    for protocol in ("HTTP/1.1", "HTTP/2"):
        with deployment.client(protocol) as client:
            stream = Stream(client, "/compressed/{key}", encoding="gzip")
            assert stream.response.headers["content-encoding"] == "gzip"
            for number in range(4):
                stream.read(f"data: {number}")
                deployment.tell(stream.key, number)
            assert stream.is_whole()


# The end


class Curl:
    """A client in a process of its own, which has a stream's first event.

    Args:
        deployment: What it asks.
        protocol: What it speaks.
    """

    def __init__(self, deployment: Deployment, protocol: str) -> None:
        self.key = f"{os.getpid()}-{next(_numbers)}"
        options = ["--http2" if protocol == "HTTP/2" else "--http1.1", "--silent", "--no-buffer"]
        options += ["--max-time", "60", "--cacert", str(deployment.folder / "site.crt")]
        self._process = subprocess.Popen(
            [program("curl", "curl"), *options, f"{deployment.url}/silent/{self.key}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert "data: 0\n" in iter(self._process.stdout.readline, "")

    def sees_a_cut(self) -> bool:
        """Waits for its end, and returns whether it knows that the stream is not whole."""
        with self._process as process:
            status = process.wait(20)
        # 18: the transfer is partial, 92: the stream was reset. https://curl.se/docs/manpage.html
        assert status in (0, 18, 92)
        return status != 0


def shut_down(deployment: Deployment, protocols: list[str]) -> list[bool]:
    """Shuts the server down while it streams, and returns which of the clients see that they were
    cut."""
    clients = [Curl(deployment, protocol) for protocol in protocols]
    deployment.app.process.terminate()
    seen = [client.sees_a_cut() for client in clients]
    deployment.app.process.wait(20)
    assert all(deployment.has_noticed(client.key) for client in clients)
    return seen


@of(last_results)
def test_a_shutdown_ends_streams(deploy: Deploy, result: Result) -> None:
    of_all_protocols = [each for each in RESULTS if each.name == result.name]
    seen = shut_down(deploy(result.name), [each.protocol for each in of_all_protocols])
    assert ["yes" if each else "no" for each in seen] == [each.cut for each in of_all_protocols]


def test_a_cut_looks_complete_where_nginx_asks_by_http_1_0(deploy: Deploy) -> None:
    older = "proxy_http_version 1.1", "proxy_http_version 1.0"
    deployment = deploy("nginx", older, "hypercorn")
    assert shut_down(deployment, ["HTTP/1.1", "HTTP/2"]) == [False, False]
