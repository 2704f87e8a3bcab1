"""A server that moves: Sentinel says where it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.exceptions import ConnectionError as RedisConnectionError

from .connection import LOST, Connection, Server, Unsupported, reason_of
from .urls import split

_PORT = 26379
# Options for the connections to the Sentinels begin with this.
_PREFIX = "sentinel_"

Options = list[tuple[str, str]]


class SentinelServer(Server):
    """The server that Sentinel has as the master of a service.

    Args:
        url: `redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database]`,
            or `rediss+sentinel://` for TLS to the server. User and password are the server's. Those
            of the Sentinels are the options `sentinel_username` and `sentinel_password`; any other
            option of redis-py can be given for them in the same way. With one that begins with
            `sentinel_ssl`, the connections to the Sentinels have TLS.

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
        own, theirs = _split(parts.query)
        super().__init__("/".join([server, *database]) + _query(own), parts.scheme)
        self._service = service
        # Why the last that was asked did not say.
        self._reason = ""
        scheme = "rediss" if any(name.startswith("ssl") for name, _ in theirs) else "redis"
        self._sentinels = [
            Server(f"{scheme}://{host}:{port}{_query(theirs)}", parts.scheme, _PREFIX)
            for host, port in places
        ]
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
        except (Unsupported, *LOST) as error:
            self._reason = reason_of(error)
            return None
        await connection.disconnect(nowait=True)
        self._reason = "it has no such master"
        return None if found is None else (found[0].decode(), int(found[1]))

    async def _new_connection(self, timeout: float) -> Connection:
        host, port = await self.resolve(timeout / 2)
        return self._connection(host=host, port=port)

    async def connect(self, timeout: float, *commands: tuple[Any, ...]) -> tuple[Any, list[Any]]:
        connection, ((role, *_), *answers) = await super().connect(timeout, ("ROLE",), *commands)
        if role != b"master":
            # Sentinel may not know yet, or its server not.
            await connection.disconnect(nowait=True)
            raise RedisConnectionError(
                f"what Sentinel names as the master says that it is a {role.decode()}"
            )
        return connection, answers


def _split(query: str) -> tuple[Options, Options]:
    """Returns the options of the server, and those of the Sentinels."""
    own: Options = []
    theirs: Options = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.startswith(_PREFIX):
            theirs.append((name.removeprefix(_PREFIX), value))
        else:
            own.append((name, value))
    return own, theirs


def _query(options: Options) -> str:
    return f"?{urlencode(options)}" if options else ""


def _place(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("there is no host")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return name, parts.port or _PORT
