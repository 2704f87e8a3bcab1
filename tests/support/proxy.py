"""A connection's faults, made on purpose: a proxy before a server."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Proxy:
    """Passes connections on to a port of this machine, until it is told to lose what comes back.

    Attributes:
        port: Where it listens.
        loses_answers: Whether what the server sends is lost, and the connection with it.
        lost: How many answers were lost.
        delay: Seconds for which each answer is held.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.loses_answers = False
        self.lost = 0
        self.delay = 0.0
        self._clients: set[asyncio.StreamWriter] = set()
        # An event loop refers to its tasks weakly.
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def say(self, data: bytes) -> None:
        """Sends something to each client, as if the server had."""
        for writer in self._clients:
            writer.write(data)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._clients.add(writer)
        asking = asyncio.ensure_future(_copy(reader, back))
        try:
            while data := await there.read(65_536):
                if self.loses_answers:
                    self.lost += 1
                    break
                await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            asking.cancel()
            self._clients.discard(writer)
            back.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
