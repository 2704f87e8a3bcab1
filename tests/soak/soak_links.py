"""The way from one process to Redis, which can be cut, stalled, made slow, and led elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Literal

Kind = Literal["commands", "subscription"]


class Links:
    """All connections of one process to Redis.

    Args:
        target: Returns the port that new connections lead to.

    Attributes:
        port: Where they begin.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._links: set[_Link] = set()
        self._stalled_until: dict[Kind, float] = {}
        self._slow_until: dict[Kind, tuple[float, float]] = {}
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.cut()
        while self._links:
            await asyncio.sleep(0.01)

    def cut(self, kind: Kind) -> None:
        for link in list(self._links):
            if link.kind == kind:
                link.cut()

    def stall(self, kind: Kind, seconds: float) -> None:
        """Lets nothing through in either direction, and then everything."""
        self._stalled_until[kind] = monotonic() + seconds

    def slow_down(self, kind: Kind, by: float, seconds: float) -> None:
        """Has what Redis sends come later."""
        self._slow_until[kind] = by, monotonic() + seconds

    def heal(self) -> None:
        self._stalled_until.clear()
        self._slow_until.clear()

    def delay(self, kind: Kind) -> float:
        by, until = self._slow_until.get(kind, (0.0, 0.0))
        return by if monotonic() < until else 0.0

    def is_stalled(self, kind: Kind) -> bool:
        return monotonic() < self._stalled_until.get(kind, 0.0)

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, writer)
        self._links.add(link)
        try:
            await link.carry(reader, self._target())
        finally:
            self._links.discard(link)


class _Link:
    """One connection. What kind it is shows when it subscribes."""

    def __init__(self, links: Links, writer: asyncio.StreamWriter) -> None:
        self._links = links
        self._writer = writer
        self._ended = asyncio.Event()
        self.kind: Kind = "commands"

    def cut(self) -> None:
        self._ended.set()

    async def carry(self, reader: asyncio.StreamReader, port: int) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            self._writer.close()
            return
        ways = [
            asyncio.create_task(self._pass_on(reader, back, is_answer=False)),
            asyncio.create_task(self._pass_on(there, self._writer, is_answer=True)),
            asyncio.create_task(self._ended.wait()),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.close()
            self._writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(due, writer))
        try:
            while data := await reader.read(65_536):
                if not is_answer and b"SUBSCRIBE\r\n" in data:
                    self.kind = "subscription"
                delay = self._links.delay(self.kind) if is_answer else 0.0
                due.put_nowait((monotonic() + delay, data))
        except OSError:
            pass
        finally:
            sending.cancel()

    async def _send(
        self, due: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                at, data = await due.get()
                while (wait := at - monotonic()) > 0 or self._links.is_stalled(self.kind):
                    await asyncio.sleep(max(wait, 0.01))
                writer.write(data)
                await writer.drain()
        except OSError:
            self.cut()
