"""A cluster under faults: processes of one application, a real Redis, and clients that come back.

    python tests/soak/soak.py --seconds 60 --seed 7

Without a seed it takes one and prints it: the same seed does the same faults in the same order,
though not at the same microsecond. What happened is recorded, and `soak_history` checks it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from time import monotonic
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "support")]

import redis  # noqa: E402

from redis_server import RedisServer  # noqa: E402
from servers import Server, free_port, give_back, uvicorn  # noqa: E402
from soak_clients import (  # noqa: E402
    BOARD,
    BoardReader,
    BoardWriter,
    Publisher,
    Reader,
    start_run,
)
from soak_history import History, Loss, Trim, position_of, violations  # noqa: E402
from soak_links import Kind, Links  # noqa: E402

ROOMS = "lobby", "kitchen", "attic"
PROCESSES = 3
READERS = 9
BOARD_READERS = 4

# What is stored survives a kill: only what is meant to lose data does.
_DURABLE = {"appendonly": "yes", "appendfsync": "always"}
# Seconds that clients may take to catch up when all is well again, and runs to end.
_CATCH_UP, _END = 25.0, 30.0

# Returns the epoch of a history and the offset up to which it was trimmed.
_TRIM = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then
  return false
end
local first = string.match(newest[1], '^(%d+)') - ARGV[1]
redis.call('XTRIM', KEYS[1], 'MINID', math.max(first, 0))
return {string.match(newest[2][2], '^(%x+)'), first - 1}
"""


class AppProcess:
    """One process of the application, with its own way to Redis."""

    def __init__(self, name: str, target: Callable[[], int], boards: Path) -> None:
        self.name = name
        self._boards = boards
        self.links = Links(target)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = ""
        self._server: Server | None = None

    async def start(self) -> None:
        if not self.links.port:
            await self.links.open()
        deadline = monotonic() + 20
        while self._server is None:
            self._server = await asyncio.to_thread(self._serve, monotonic() > deadline)

    def _serve(self, is_last: bool) -> Server | None:
        """Returns the server. On a busy machine its port may not be free yet: then None, unless
        this is the last try."""
        try:
            return Server(
                [*uvicorn("soak_app:app", "--no-access-log"), "--timeout-graceful-shutdown", "2"],
                FOLDER,
                port=self.port,
                REDIS_URL=f"redis://127.0.0.1:{self.links.port}/0",
                BOARDS_FILE=str(self._boards),
            )
        except AssertionError as error:
            if is_last or "address already in use" not in str(error):
                raise
            return None

    async def kill(self) -> None:
        server = self._server
        if server is not None:
            if server.process.poll() is not None:
                self.log += "(it has ended by itself)\n"
            server.process.kill()
            await asyncio.to_thread(server.process.wait)
            self._keep_log(server)
            self._server = None

    def _keep_log(self, server: Server) -> None:
        self.log += server.log
        server._log.close()
        server.log_path.unlink(missing_ok=True)

    async def close(self) -> None:
        await self.kill()
        await self.links.close()
        give_back(self.port)


class Soak:
    """One run of all that.

    Args:
        seed: Decides on the faults.
        seconds: How long there are faults.
        say: Prints a line.

    Attributes:
        history: What has happened so far.
        faults: What was done, and how often.
    """

    def __init__(self, seed: int, seconds: float, say: Callable[[str], object] = print) -> None:
        self.history = History()
        self.faults: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._choices = random.Random(seed + 1)  # of clients, whose order depends on timing
        self._seconds = seconds
        self._say = say
        self._servers = [RedisServer(**_DURABLE) for _ in range(2)]
        self._folder = tempfile.TemporaryDirectory()
        self._boards = Path(self._folder.name, "boards.sqlite")
        self._processes = [
            AppProcess(f"process {number}", lambda: self._redis.port, self._boards)
            for number in range(PROCESSES)
        ]
        self._board_writer = BoardWriter(self._choices)
        self._board_readers: list[BoardReader] = []
        self._publishers = {room: Publisher(room, self.history, self._choices) for room in ROOMS}
        self._readers: list[Reader] = []
        self._followers: list[Reader] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._began = monotonic()

    @property
    def _redis(self) -> RedisServer:
        return self._servers[0]

    def _pick(self) -> AppProcess:
        return self._choices.choice(self._processes)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def run(self) -> list[str]:
        """Runs it, and returns what should not have happened."""
        try:
            await asyncio.gather(*[process.start() for process in self._processes])
            self._began = monotonic()
            for number in range(READERS):
                self._begin_reading(f"reader {number}", ROOMS[number % len(ROOMS)])
            for number in range(BOARD_READERS):
                self._begin_board(f"board {number}")
            writers = [*self._publishers.values(), self._board_writer]
            publishing = [self._spawn(each.run(self._pick)) for each in writers]
            running = self._spawn(self._start_runs())
            await self._do_faults()
            await self._calm_down(publishing, running)
            self._note_what_is_stored()
        except AssertionError as error:
            return [f"{error}; {self._how_redis_is()}"]
        finally:
            await self._close()
        found = [*self._failed_tasks(), *self._complaints(), *violations(self.history)]
        return found + [each for reader in self._board_readers for each in reader.complaints]

    # Clients

    def _begin_reading(self, name: str, room: str) -> None:
        reader = Reader(
            name, room, f"/rooms/{room}", lambda: self._choices.uniform(0.1, 2), self._pick
        )
        self._begin(reader, self._readers)

    def _begin(self, reader: Reader, among: list[Reader]) -> None:
        among.append(reader)
        self.history.clients.append(reader.record)
        self._spawn(reader.run())

    def _begin_board(self, name: str) -> None:
        reader = BoardReader(name, lambda: self._choices.uniform(0.1, 2), self._pick)
        self._board_readers.append(reader)
        self._spawn(reader.run())

    async def _start_runs(self) -> None:
        number = 0
        while True:
            if sum(not each.finished for each in self._followers) < 6:
                number += 1
                await self._start_run(f"run-{number}")
            await asyncio.sleep(0.7)

    async def _start_run(self, id: str) -> None:
        run = await start_run(self._pick(), id, self._choices.randint(10, 80), 0.05)
        if run is None:
            return
        self.history.runs.append(run)
        for name in (f"follower {id}a", f"follower {id}b"):
            follower = Reader(
                name, id, f"/runs/{id}", lambda: self._choices.uniform(0.1, 0.8), self._pick
            )
            self._begin(follower, self._followers)

    # Faults

    async def _do_faults(self) -> None:
        deck: list[Callable[[], Awaitable[None]]] = []
        end = monotonic() + self._seconds
        while monotonic() < end:
            if not deck:
                deck = self._deck()
                self._rng.shuffle(deck)
            await asyncio.sleep(self._rng.uniform(0.1, 0.9))
            fault = deck.pop()
            name = fault.__name__.strip("_").replace("_", " ")
            self.faults[name] += 1
            self._say(f"{monotonic() - self._began:6.2f} {name}")
            await fault()

    def _deck(self) -> list[Callable[[], Awaitable[None]]]:
        often = [self._slow_subscription] * 6 + [self._slow_commands] * 2
        often += [self._cut_subscription] * 3 + [self._cut_commands] * 3
        often += [self._stall_subscription] * 2 + [self._stall_commands] * 2
        often += [self._kill_clients] * 2 + [self._trim] * 3
        return [
            *often,
            self._kill_process,
            self._kill_process,
            self._restart_redis,
            self._restart_redis_without_data,
            self._move_redis,
        ]

    def _links(self) -> Links:
        return self._rng.choice(self._processes).links

    async def _slow(self, kind: Kind) -> None:
        self._links().slow_down(kind, 0.3, self._rng.uniform(1, 3))

    async def _slow_subscription(self) -> None:
        await self._slow("subscription")

    async def _slow_commands(self) -> None:
        await self._slow("commands")

    async def _cut_subscription(self) -> None:
        self._links().cut("subscription")

    async def _cut_commands(self) -> None:
        self._links().cut("commands")

    async def _stall_subscription(self) -> None:
        self._links().stall("subscription", self._rng.uniform(0.5, 2.5))

    async def _stall_commands(self) -> None:
        self._links().stall("commands", self._rng.uniform(0.5, 2))

    async def _kill_clients(self) -> None:
        kind = self._rng.choice(["normal", "pubsub"])
        await asyncio.to_thread(self._redis.kill_clients, kind)

    async def _kill_process(self) -> None:
        process = self._rng.choice(self._processes)
        self.history.kills.append((process.name, monotonic()))
        await process.kill()
        await asyncio.sleep(self._rng.uniform(0, 0.5))
        await process.start()

    async def _trim(self) -> None:
        room, kept = self._rng.choice([*ROOMS, BOARD]), self._rng.choice([0, 1, 5])
        for name in self._names_of(room):
            trimmed = await asyncio.to_thread(self._redis.ask, "EVAL", _TRIM, 1, name, kept)
            if trimmed:
                self.history.trims.append(Trim(room, trimmed[0], trimmed[1]))

    def _names_of(self, room: str) -> list[str]:
        return [name for name in self._redis.names() if name.endswith(f":{room}")]

    async def _restart_redis(self) -> None:
        await asyncio.to_thread(self._redis.kill)
        await asyncio.sleep(self._rng.uniform(0, 1))
        await asyncio.to_thread(self._redis.start)

    async def _restart_redis_without_data(self) -> None:
        began = monotonic()
        await asyncio.to_thread(self._redis.kill)
        for kept in self._redis._folder.iterdir():
            if kept.is_dir():
                shutil.rmtree(kept)
            elif kept.name != "log":
                kept.unlink()
        await asyncio.sleep(self._rng.uniform(0, 0.5))
        await asyncio.to_thread(self._redis.start)
        self.history.losses.append(Loss(began, monotonic()))

    async def _move_redis(self) -> None:
        """Leads the name of Redis to the other server, without the data; the old one stays up, and
        the subscriptions with it."""
        began = monotonic()
        await asyncio.to_thread(self._servers[1].ask, "FLUSHALL")
        self._servers.reverse()
        await asyncio.to_thread(self._servers[1].kill_clients, "normal")
        self.history.losses.append(Loss(began, monotonic()))

    # The end

    async def _calm_down(
        self, publishing: list[asyncio.Task[Any]], running: asyncio.Task[Any]
    ) -> None:
        """Ends the faults, and waits until everybody has everything."""
        self._say(f"{monotonic() - self._began:6.2f} no more faults")
        for process in self._processes:
            process.links.heal()
        for reader in [*self._readers, *self._board_readers]:
            reader.moves = False
        running.cancel()
        for each in publishing:
            each.cancel()
        await asyncio.wait([running, *publishing])
        await self._publish_everywhere()
        self.history.calm_from = monotonic()
        await self._publish_everywhere()
        await self._compare_boards()
        await _wait(lambda: all(each.finished for each in self._followers), _END)
        for reader in [*self._readers, *self._followers]:
            reader.record.stays = True

    async def _publish_everywhere(self) -> None:
        """Publishes to each room by each process, and waits until all clients have that."""
        newest = {}
        for process in self._processes:
            for room, publisher in self._publishers.items():
                newest[room] = await publisher.publish_surely(process, _CATCH_UP)
        await _wait(
            lambda: all(each.at == newest[each.record.room] for each in self._readers), _CATCH_UP
        )

    async def _compare_boards(self) -> None:
        """Writes by each process, and waits until all clients have the state that is stored."""
        for process in self._processes:
            await self._board_writer.write_surely(process, _CATCH_UP)
        stored = self._stored_board()
        readers = self._board_readers
        await _wait(lambda: all(each.state == stored for each in readers), _CATCH_UP)
        for each in readers:
            if each.state != stored:
                differs = {
                    f"{kind} {name}": (state.get(name), stored[kind].get(name))
                    for kind, state in each.state.items()
                    for name in state.keys() | stored[kind].keys()
                    if state.get(name) != stored[kind].get(name)
                }
                each.complaints.append(
                    f"{each.record.name}: differs from what is stored: {differs}"
                )

    def _stored_board(self) -> dict[str, Any]:
        with sqlite3.connect(self._boards) as database:
            rows = database.execute("SELECT kind, state FROM states WHERE name = ?", (BOARD,))
            return {kind: json.loads(state) for kind, state in rows}

    def _note_what_is_stored(self) -> None:
        client = redis.Redis(port=self._redis.port)
        for room in ROOMS:
            stored = self.history.stored[room] = []
            for name in self._names_of(room):
                for place, fields in client.xrange(name):
                    epoch = fields[b"about"].split(b" ")[0].decode()
                    number = fields[b"body"].strip().removeprefix(b"data: ")
                    if number:
                        stored.append((f"{epoch}-{place.decode()}", int(number)))
        client.close()

    def _how_redis_is(self) -> str:
        try:
            return f"what took Redis long: {self._redis.slow()}"
        except redis.RedisError as error:
            return f"Redis: {error!r}\n{self._redis.log}"

    def _failed_tasks(self) -> list[str]:
        failed = [each for each in self._tasks if each.done() and not each.cancelled()]
        return [f"the soak: {each.exception()!r}" for each in failed if each.exception()]

    def _complaints(self) -> list[str]:
        """What processes have logged that says that something of ours is broken."""
        return [
            f"{process.name} logged: {line}"
            for process in self._processes
            for line in process.log.splitlines()
            if line.startswith(("Traceback", "ERROR")) or "never retrieved" in line
        ]

    @property
    def logs(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.log}" for each in self._processes)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for process in self._processes:
            await process.close()
        for server in self._servers:
            await asyncio.to_thread(server.close)
        self._folder.cleanup()

    def summary(self) -> str:
        seen = Counter(
            each.kind
            for client in self.history.clients
            for connection in client.connections
            for each in connection.seen
        )
        snapshots = sum(each.snapshots for each in self._board_readers)
        moves = sum(len(each.connections) for each in self.history.clients)
        told = Counter(
            "stored" if position_of(each.outcome) else each.outcome
            for each in self.history.published
        )
        return "\n".join(
            [
                f"faults: {_counted(self.faults)}",
                f"publishes: {_counted(told)}; runs: {len(self.history.runs)}",
                f"changes of the board: {self._board_writer.written}; snapshots seen: {snapshots}",
                f"connections: {moves}; blocks seen: {_counted(seen)}",
            ]
        )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


async def _wait(condition: Callable[[], bool], timeout: float) -> None:
    """Waits, but not for ever: what has not come about by then, the checks say."""
    deadline = monotonic() + timeout
    while not condition() and monotonic() < deadline:
        await asyncio.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--logs", action="store_true", help="print what the processes log")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}")
    soak = Soak(seed, options.seconds)
    found = asyncio.run(soak.run())
    print(soak.summary())
    if options.logs or found:
        print(soak.logs)
    print(*found, sep="\n")
    print(f"seed {seed}: {len(found)} violations")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
