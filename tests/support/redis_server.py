"""Real Redis servers, each in a process and a folder of its own, on a loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from debian import program
from servers import free_port, give_back, until

_DEFAULTS = {
    "save": "",
    "appendonly": "no",
    # Otherwise a master waits for five seconds whether a second replica comes.
    "repl-diskless-sync-delay": "0",
    # Milliseconds from which on `slow` tells of an event.
    "latency-monitor-threshold": "500",
}

# A server whose data is to survive a kill waits for the disk at each write, and the disk of a busy
# machine takes seconds for that. What is in memory survives the kill of a process too.
_SHARED_MEMORY = "/dev/shm"
_HAS_ROOM = os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > 2**28


class RedisServer:
    """A Redis server.

    Args:
        options: Of its configuration, with "-" for "_"; what is not given saves nothing.
    """

    def __init__(self, **options: str) -> None:
        self._program = program("redis-server", "redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = Path(
            tempfile.mkdtemp(prefix="sserpent-redis-", dir=_SHARED_MEMORY if _HAS_ROOM else None)
        )
        given = {name.replace("_", "-"): value for name, value in options.items()}
        self._options = {**_DEFAULTS, **given}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.start()

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, start_new_session=True
            )
        until(self.answers, timeout=30)

    def _command(self) -> list[str]:
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder)}
        command = [self._program]
        for name, value in {**options, **self._options}.items():
            command += [f"--{name}", *value.split(" ")]
        return command

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def slow(self) -> list[Any]:
        """What took it long so far: what it was, when it was last, and its milliseconds."""
        return list(self.ask("LATENCY", "LATEST"))

    def answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"Redis did not start:\n{self.log}")
        try:
            return bool(self.ask("PING"))
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
            return False

    def ask(self, *command: Any, **options: Any) -> Any:
        """Returns the answer to a command, asked on a connection of its own."""
        with redis.Redis(
            port=self.port, socket_timeout=20, decode_responses=True, **options
        ) as client:
            return client.execute_command(*command)

    def names(self) -> list[str]:
        """The names of all keys."""
        return sorted(self.ask("KEYS", "*"))

    def clients(self, kind: str) -> list[str]:
        """The ids of the connections of a kind: "normal" or "pubsub"; the asking one left out."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            own = str(client.client_id())
            return [each["id"] for each in client.client_list(_type=kind) if each["id"] != own]

    def kill_clients(self, kind: str) -> None:
        """Ends the connections of a kind."""
        self.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def subscriptions(self) -> list[str]:
        """What anybody is subscribed to, on a node of a cluster too."""
        kinds = ("CHANNELS", "SHARDCHANNELS")
        return sorted(name for kind in kinds for name in self.ask("PUBSUB", kind, "*"))

    def pause(self) -> None:
        """Stops it, with its connections open."""
        assert self._process is not None
        self._stopped = True
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._stopped = False
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._stopped:
            self.go_on()
        self.kill()
        shutil.rmtree(self._folder)
        give_back(self.port)


class Sentinel(RedisServer):
    """A Sentinel that watches one master, "main", and decides alone.

    Args:
        options: Of its configuration, as those of a server.
    """

    def __init__(self, master: RedisServer, **options: str) -> None:
        self._master = master
        super().__init__(**options)
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/main/0"

    def watch(self, master: RedisServer) -> None:
        """Has it name another master, though the first is there."""
        self.ask("SENTINEL", "REMOVE", "main")
        self.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", master.port, 1)

    def _command(self) -> list[str]:
        options = {name: value for name, value in self._options.items() if name not in _DEFAULTS}
        configuration = self._folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor main 127.0.0.1 {self._master.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 3000\n"
            + "".join(f"{name} {value}\n" for name, value in options.items())
        )
        return [self._program, str(configuration), "--sentinel"]


class Cluster:
    """Three masters, one of another.

    Args:
        make: Makes a server with options, and ends it.
        options: Of each node.

    Attributes:
        nodes: The masters at first, and then each replica that is added.
    """

    def __init__(self, make: Callable[..., RedisServer], **options: str) -> None:
        self._make = make
        self._options = options
        self._buses: list[int] = []
        self.nodes: list[RedisServer] = []
        for number in range(3):
            node = self._new_node()
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            slots = 16_384 * number // 3, 16_384 * (number + 1) // 3 - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
            self._meet(node)
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        until(lambda: all(self._is_whole(node) for node in self.nodes), timeout=60)

    def _new_node(self) -> RedisServer:
        # Ten thousand more than the port, as is usual, may be none.
        bus = free_port()
        self._buses.append(bus)
        node = self._make(cluster_enabled="yes", cluster_port=str(bus), **self._options)
        self.nodes.append(node)
        return node

    def _meet(self, node: RedisServer) -> None:
        bus = self._buses[self.nodes.index(node)]
        self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

    def add_replica(self, master: RedisServer) -> RedisServer:
        """Adds a node that has what another has, and takes over from it."""
        master_id = master.ask("CLUSTER", "MYID")
        replica = self._new_node()
        self._meet(replica)
        until(lambda: master_id in replica.ask("EVAL", "return redis.call('CLUSTER', 'NODES')", 0))
        replica.ask("CLUSTER", "REPLICATE", master_id)
        own_id = replica.ask("CLUSTER", "MYID")
        until(lambda: replica.ask("ROLE")[3] == "connected")
        for node in self.nodes:
            until(lambda node=node: _is_replica(node, own_id))  # type: ignore[misc]
        # It knows who has the other slots: it learns of them from the nodes it knows, and if that
        # is only its master, never, once that is stopped.
        until(lambda: self._is_whole(replica))
        return replica

    @staticmethod
    def _is_whole(node: RedisServer) -> bool:
        return "cluster_state:ok" in node.ask("EVAL", "return redis.call('CLUSTER', 'INFO')", 0)

    def node_of(self, slot: int) -> RedisServer:
        """The node that has a slot."""
        for node in self.nodes:
            found = node.ask("EVAL", "return redis.call('CLUSTER', 'SLOTS')", 0)
            for first, last, (_, port, *_), *_ in found:
                if first <= slot <= last and port == node.port:
                    return node
        raise AssertionError(f"nobody has slot {slot}")

    def begin_to_move(self, slot: int, to: RedisServer) -> None:
        source = self.node_of(slot)
        ids = [node.ask("CLUSTER", "MYID") for node in (source, to)]
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])

    def move_key(self, name: str, slot: int, to: RedisServer) -> None:
        self.node_of(slot).ask("MIGRATE", "127.0.0.1", to.port, name, 0, 5_000)

    def end_move(self, slot: int, to: RedisServer) -> None:
        number = to.ask("CLUSTER", "MYID")
        source = self.node_of(slot)
        for node in (to, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", number)

    def close(self) -> None:
        for bus in self._buses:
            give_back(bus)


def _is_replica(node: RedisServer, number: str) -> bool:
    """Whether a node knows that another is a replica."""
    known = node.ask("EVAL", "return redis.call('CLUSTER', 'NODES')", 0)
    return any(number in line and "slave" in line for line in known.splitlines())
