"""A cluster: each name is on one of its nodes, and may move to another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from ...._runtime.loops import end
from .command import Command
from .commands import Commands, Setup
from .connection import LOST, Server, Trouble, Unsupported
from .pub_sub import Listening, PubSub
from .servers import Pace
from .urls import split

Address = tuple[str, int]

# Seconds between two looks for where the slots are, at least.
_PAUSE = 0.1


class ClusterServer(Server):
    """Nodes of a cluster by which the others are found.

    Args:
        url: `redis+cluster://[[user]:password@]host[:port][,host[:port]...]`, or
            `rediss+cluster://` for TLS.

    Raises:
        ValueError: the URL is no such.
    """

    def __init__(self, url: str) -> None:
        parts = split(url)
        try:
            account, _, hosts = parts.netloc.rpartition("@")
            first, *_ = self.seeds = [_address(host) for host in hosts.split(",")]
        except ValueError:
            raise ValueError("'broker' must be like redis+cluster://host:6379,host:6379") from None
        account = f"{account}@" if account else ""
        scheme = parts.scheme.partition("+")[0]
        query = f"?{parts.query}" if parts.query else ""
        host = f"[{first[0]}]" if ":" in first[0] else first[0]
        super().__init__(f"{scheme}://{account}{host}:{first[1]}{parts.path}{query}", parts.scheme)
        if self.database:
            raise ValueError("'broker' must name no database but 0: a cluster has no other")


def _address(host: str) -> Address:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("there is no host")
    return parts.hostname, parts.port or 6379


class _Node:
    """One node's connections."""

    def __init__(self, cluster: Cluster, server: Server, setup: Setup, pace: Pace):
        self.server = server
        self.commands = Commands(server, setup, pace.timeout, cluster)
        self.subscription = PubSub(
            server, pace.timeout / 2, pace.probe, "SSUBSCRIBE", cluster.misplaced
        )


class Cluster:
    """The nodes of a cluster, and which of them has which name.

    A node that has a name no longer says so. Otherwise the nodes are asked, now and then, and when
    one is away.
    """

    publish = "SPUBLISH"

    def __init__(self, server: ClusterServer, setup: Setup, pace: Pace) -> None:
        self._server = server
        self._setup = setup
        self._pace = pace
        self._nodes: dict[Address, _Node] = {}
        self._slots: dict[int, Address] = {}
        # The node of each subscription; none while it is not known.
        self._listening: dict[Listening, _Node | None] = {}
        self._wanted = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._follow_nodes())

    @property
    def skew(self) -> float | None:
        return next(
            (node.commands.skew for node in self._nodes.values() if node.commands.skew is not None),
            None,
        )

    def send(self, command: Command) -> None:
        self._node_of(command.name).commands.send(command)

    def add(self, listening: Listening) -> None:
        node = self._listening[listening] = self._node_of(listening.name)
        node.subscription.add(listening)

    def discard(self, listening: Listening) -> None:
        node = self._listening.pop(listening, None)
        if node is not None:
            node.subscription.discard(listening)

    def sync(self, listening: Listening, then: Callable[[], object]) -> None:
        node = self._listening.get(listening)
        if node is not None:
            node.subscription.sync(then)

    def renew(self, listening: Listening) -> None:
        node = self._listening.get(listening)
        if node is not None:
            node.commands.renew()
            node.subscription.renew()
        self._wanted.set()

    async def drain(self) -> None:
        await asyncio.gather(*[node.commands.drain() for node in self._nodes.values()])

    @property
    def troubles(self) -> list[str]:
        known = {*self._slots.values(), *self._server.seeds}
        nodes = [node for address, node in self._nodes.items() if address in known]
        return [reason for node in nodes for reason in node.server.troubles.values()]

    async def aclose(self) -> None:
        await end(self._task)
        while self._nodes:  # an answer may lead to another meanwhile
            _, node = self._nodes.popitem()
            await node.subscription.aclose()
            await node.commands.aclose()

    # Where a name is

    def _node_of(self, name: bytes) -> _Node:
        return self._node(self._slots.get(key_slot(name), self._server.seeds[0]))

    def _node(self, address: Address) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            server = self._server.at(*address)
            node = self._nodes[address] = _Node(self, server, self._setup, self._pace)
        return node

    def redirect(self, command: Command, error: AskError, host: str) -> None:
        """Sends a command to the node that has its name, says the one that was asked."""
        address = _named(error, host)
        if isinstance(error, MovedError):
            self._slots[error.slot_id] = address
            self._wanted.set()
            self.send(command)
        else:  # for this command alone
            commands = self._node(address).commands
            asking = Command(command.name, ("ASKING",), command.deadline)
            asking.future.add_done_callback(_forget)
            commands.send(asking)
            commands.send(command)

    def misplaced(self, listening: Listening, error: MovedError | None, host: str) -> None:
        """Says that a node has the name no longer that somebody is subscribed to there."""
        if listening not in self._listening:
            return
        listening.on_lost()
        self.discard(listening)
        self._listening[listening] = None
        if error is not None:
            self._slots[error.slot_id] = _named(error, host)
            self.add(listening)
        self._wanted.set()

    def away(self) -> None:
        """Says that a node could not be reached."""
        self._wanted.set()

    # Looking

    async def _follow_nodes(self) -> None:
        trouble = Trouble(f"The look for the nodes of the cluster of {self._server.place}")
        while True:
            self._wanted.clear()
            try:
                await self._look()
            except Exception as error:
                trouble.begin(error)
            else:
                trouble.end()
            await asyncio.sleep(_PAUSE)
            try:
                await asyncio.wait_for(self._wanted.wait(), self._pace.probe)
            except asyncio.TimeoutError:
                pass

    async def _look(self) -> None:
        refusal: Unsupported | None = None
        for address in dict.fromkeys([*self._slots.values(), *self._server.seeds]):
            try:
                slots = await self._ask(address)
            except LOST:
                continue
            except Unsupported as error:
                refusal = error
                continue
            if slots:  # a node that has left the cluster knows of none
                self._slots = slots
                self._place_anew()
                return
        if refusal is not None:
            raise refusal

    async def _ask(self, address: Address) -> dict[int, Address]:
        connection, (ranges,) = await self._server.at(*address).connect(
            self._pace.timeout / 4, ("CLUSTER", "SLOTS")
        )
        await connection.disconnect(nowait=True)
        return _slots(ranges, address[0])

    def _place_anew(self) -> None:
        for node in list(self._nodes.values()):  # a new one may come
            for command in node.commands.take():
                self.send(command)
        for listening, there in list(self._listening.items()):
            if self._node_of(listening.name) is not there:
                listening.on_lost()
                self.discard(listening)
                self.add(listening)


def _named(error: AskError, asked: str) -> Address:
    """Returns the address that an answer names. A node that does not know its own names none: then
    it is the host that was asked (https://redis.io/docs/latest/commands/cluster-slots/)."""
    return str(cast(Any, error).host) or asked, int(error.port)


def _forget(future: asyncio.Future[Any]) -> None:
    """Nobody else asks whether it has failed."""
    if not future.cancelled():
        future.exception()


def _slots(ranges: list[Any], asked: str) -> dict[int, Address]:
    slots: dict[int, Address] = {}
    for first, last, (host, port, *_), *_ in ranges:
        address = (host.decode() if host else asked), port
        slots.update(dict.fromkeys(range(first, last + 1), address))
    return slots
