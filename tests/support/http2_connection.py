"""A client's HTTP/2 connection that carries several streams, as a browser's does."""

from __future__ import annotations

import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events


class Http2Connection:
    """Asks over one connection, and leaves each stream by itself.

    Attributes:
        bodies: What has come, by the stream's number.
        reset: The streams that the server has cut off.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        assert self._socket.selected_alpn_protocol() == "h2"
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self._h2.initiate_connection()
        self._send()
        self._authority = f"127.0.0.1:{port}"
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.reset: set[int] = set()

    def __enter__(self) -> Http2Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str) -> int:
        """Opens a stream, and returns its number."""
        number = self._h2.get_next_available_stream_id()
        headers = {
            ":method": "GET",
            ":scheme": "https",
            ":authority": self._authority,
            ":path": path,
        }
        self._h2.send_headers(number, list(headers.items()), end_stream=True)
        self._send()
        return number

    def leave(self, number: int) -> None:
        """Leaves a stream, as a browser does for `EventSource.close()`."""
        self._h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        self._send()

    def read_until(self, condition: Callable[[], Any]) -> None:
        """Reads until a condition on what has come holds."""
        while not condition():
            self._read()

    def _read(self) -> None:
        received = self._socket.recv(65_536)
        assert received, "the connection was closed"
        for event in self._h2.receive_data(received):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                size = event.flow_controlled_length
                self._h2.acknowledge_received_data(size, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset.add(event.stream_id)
        self._send()

    def _send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())
