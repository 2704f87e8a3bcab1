"""A server that moves: Sentinel says where it is."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from redis.exceptions import ConnectionError as RedisConnectionError

from .connection import LOST, Connection, Server, ask, reason_of
from .urls import split

_PORT = 26379


class SentinelServer(Server):
    """The server that Sentinel has as the master of a service.

    Args:
        url: `redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database]`,
            or `rediss+sentinel://` for TLS to the server. User and password are the server's.

    Raises:
        ValueError: the URL is no such.
    """

    moves = True

    def __init__(self, url: str) -> None:
        parts = split(url)
        try:
            account, _, hosts = parts.netloc.rpartition("@")
            _, service, *database = parts.path.split("/")
            places = [_place(host) for host in hosts.split(",")]
            if not service:
                raise ValueError
        except ValueError:
            raise ValueError(
                "'broker' must be like redis+sentinel://host:26379,host:26379/service/0"
            ) from None
        scheme = parts.scheme.partition("+")[0]
        server = f"{scheme}://{account}@localhost" if account else f"{scheme}://localhost"
        query = f"?{parts.query}" if parts.query else ""
        super().__init__("/".join([server, *database]) + query, parts.scheme)
        self._service = service
        # Why the last that was asked did not say.
        self._reason = ""
        self._sentinels = [Server(f"redis://{host}:{port}") for host, port in places]
        self._places = ", ".join(f"{host}:{port}" for host, port in places)
        self.place = f"Redis, the master of '{service}'"

    async def resolve(self, timeout: float) -> tuple[str, int]:
        """Returns the host and the port of the master.

        Raises:
            RedisError: no Sentinel knows.
        """
        for sentinel in list(self._sentinels):
            found = await self._ask(sentinel, timeout / len(self._sentinels))
            if found is not None:
                return found
            # Another is asked first, next time.
            self._sentinels.append(self._sentinels.pop(0))
        raise RedisConnectionError(
            f"no Sentinel says where '{self._service}' is, of {self._places}: {self._reason}"
        )

    async def _ask(self, sentinel: Server, timeout: float) -> tuple[str, int] | None:
        question = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
        try:
            connection, (found,) = await sentinel.connect(timeout, question)
        except LOST as error:
            self._reason = reason_of(error)
            return None
        await connection.disconnect(nowait=True)
        self._reason = "it has no such master"
        return None if found is None else (found[0].decode(), int(found[1]))

    async def _new_connection(self, timeout: float) -> Connection:
        host, port = await self.resolve(timeout / 2)
        connection = self._connection(host=host, port=port)
        try:
            await asyncio.wait_for(_check_master(connection), timeout / 2)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


async def _check_master(connection: Connection) -> None:
    """Sentinel may not know yet, or its server not."""
    await connection.connect()
    role = (await ask(connection, "ROLE"))[0].decode()
    if role != "master":
        raise RedisConnectionError(f"what Sentinel names as the master says that it is a {role}")


def _place(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("there is no host")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return name, parts.port or _PORT
