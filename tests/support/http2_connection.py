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

    Args:
        port: The server's.
        context: Whom to trust; without TLS if None.

    Attributes:
        bodies: What has come, by the stream's number.
        ended: The streams that the server has ended.
        reset: The streams that the server has cut off.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if context is not None:
            context.set_alpn_protocols(["h2"])
            secure = context.wrap_socket(self._socket, server_hostname="127.0.0.1")
            assert secure.selected_alpn_protocol() == "h2"
            self._socket = secure
        self._scheme = "http" if context is None else "https"
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self._h2.initiate_connection()
        self._send()
        self._authority = f"127.0.0.1:{port}"
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        # Streams without a window, and the bytes of each that none was opened for.
        self._unread: dict[int, int] = {}

    def __enter__(self) -> Http2Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str, reads: bool = True) -> int:
        """Opens a stream, and returns its number.

        Args:
            path: What to ask for.
            reads: Whether a window is opened for what comes; else only for the other streams.
        """
        number = self._h2.get_next_available_stream_id()
        headers = {
            ":method": "GET",
            ":scheme": self._scheme,
            ":authority": self._authority,
            ":path": path,
        }
        self._h2.send_headers(number, list(headers.items()), end_stream=True)
        if not reads:
            self._unread[number] = 0
        self._send()
        return number

    def begin_to_read(self, number: int) -> None:
        """Opens a window for a stream that had none."""
        self._h2.increment_flow_control_window(self._unread.pop(number), number)
        self._send()

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
                self._make_room(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset.add(event.stream_id)
        self._send()

    def _make_room(self, size: int, number: int) -> None:
        if number in self._unread:
            self._unread[number] += size
            self._h2.increment_flow_control_window(size)
        else:
            self._h2.acknowledge_received_data(size, number)

    def _send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())
