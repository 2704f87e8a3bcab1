"""Streams every example through a real server and prints what comes; then the speed.

`make demo` runs it. On a terminal it goes on serving the live page until Ctrl-C. `demo.py
examples` and `demo.py speed` run one half each: the first can be read while the core in Rust is
built, which the second takes.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import race
from app import EXAMPLES, Example
from redis_for_demo import redis_url
from serving import Server

import sserpent

EVENTS = 20_000
ROUNDS = 5
BAR = 24
PORT = 8000


HALVES = ("examples", "speed")


def main(*halves: str) -> None:
    halves = halves or HALVES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print_backend(is_building=halves == ("examples",))
    with redis_url() as redis, serving(redis) as (server, *others):
        print_where(redis)
        if "examples" in halves:
            for number, example in enumerate(EXAMPLES, start=1):
                show(server.url, number, example)
        if "speed" not in halves:
            return
        print_speed()
        if sys.stdin.isatty() and sys.stdout.isatty():
            print(f"\nThe live page:  {bold(server.url)}   (Ctrl-C to end)", flush=True)
            for other in others:
                print(f"  from another process:  {bold(other.url)}", flush=True)
            serve_until_interrupted(server)
        else:
            print("\nOn a terminal it goes on with live pages, at http://127.0.0.1:8000")


@contextmanager
def serving(redis: str | None) -> Iterator[list[Server]]:
    """Serves all examples: in two processes, on ports of their own, if Redis connects them."""
    ports = [PORT] if redis is None else [PORT, PORT + 1]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as servers:
        shared = {"REDIS_URL": redis, "BOARDS_FILE": str(Path(folder, "boards.sqlite"))}
        yield [servers.enter_context(Server("app:app", free_port(port), shared)) for port in ports]


def print_where(redis: str | None) -> None:
    if redis is None:
        print(
            "  channels and runs in this process: for two processes, install redis-server, or set"
            ' REDIS_URL,\n  and pip install "sserpent[redis]"\n'
        )
    else:
        print("  channels and runs of the live page on Redis, in two processes\n")


def serve_until_interrupted(server: Server) -> None:
    try:
        server.process.wait()
    except KeyboardInterrupt:
        print()
    else:
        raise RuntimeError("the server ended by itself; its log is above")


def print_backend(*, is_building: bool) -> None:
    print(f"{bold('sserpent')} {sserpent.__version__}, backend: {bold(sserpent.BACKEND)}")
    if sserpent.BACKEND == "python":
        why = "until the core in Rust is built" if is_building else f"because {why_pure()}"
        print(f"  pure Python, {why}")
    packages = ("uvicorn", "uvloop", "httptools", "fastapi", "pydantic")
    used = [f"{name} {found}" for name in packages if (found := has(name))]
    print(f"  on {', '.join(used)}, Python {platform.python_version()}\n")


def why_pure() -> str:
    if os.environ.get("SSERPENT_PURE") == "1":
        return "SSERPENT_PURE=1 is set"
    if find_spec("sserpent._core.compiled") is None:
        return "the compiled core is not installed: building it takes a Rust toolchain (rustup.rs)"
    return "the compiled core was not chosen"


def has(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show(base: str, number: int, example: Example) -> None:
    """Requests an example, and prints its wire text as it comes."""
    headers = "".join(f"  {name}: {value}" for name, value in example.headers.items())
    print(f"{number}. {bold(example.title)}   {dim(f'{example.method} {example.url}{headers}')}")
    request = {"method": example.method, "url": base + example.url, "headers": example.headers}
    if example.body is not None:
        request["json"] = example.body
    complete = False
    events = -example.snapshots
    with httpx.stream(**request, timeout=10) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{example.url} answered {response.status_code}")
        for body in example.posts:
            httpx.post(base + example.url, json=body).raise_for_status()
        for line in response.iter_lines():
            if line:
                field, _, value = line.partition(":")
                print(f"   {dim(field + ':')}{value}", flush=True)
            complete = line == ""
            events += line.startswith("data:")
            if complete and example.posts and events >= len(example.posts):
                break
    if not complete:
        raise RuntimeError(f"{example.url} did not end with a whole event")
    print()


def print_speed() -> None:
    """The contenders in turn, round by round, so that a busy moment hits them all."""
    print(
        f"{EVENTS:,} pydantic models in one burst over a socket, by the clock, median of {ROUNDS}"
        " rounds\n(the README's table counts the server's CPU time instead):\n"
    )
    racing = race.contenders()
    rates: dict[race.Contender, list[float]] = {contender: [] for contender in racing}
    with race.servers(racing) as ports:
        for contender, port in ports.items():
            race.burst(port, contender.path, EVENTS)  # warms up
        for _ in range(ROUNDS):
            for contender, port in ports.items():
                rates[contender].append(race.burst(port, contender.path, EVENTS))
    medians = {contender: statistics.median(rates[contender]) for contender in racing}
    for contender, rate in medians.items():
        bar = "█" * max(round(BAR * rate / max(medians.values())), 1)
        ratio = rate / medians[race.FASTAPI]
        print(f"  {contender.name:<22}{rate:>12,.0f} events/s {ratio:>7.1f}x  {bar}")


def free_port(preferred: int) -> int:
    """The preferred port if it is free, else 0, for any."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", preferred))
        except OSError:
            return 0
        return preferred


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, OSError, httpx.HTTPError) as error:
        sys.exit(f"The demo failed: {error or type(error).__name__}")
