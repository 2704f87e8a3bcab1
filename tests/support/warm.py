"""Starts servers by forking a process that has imported FastAPI: in most tests that import takes
longer than all else that a server does.

From there on it is as with `python -m`. Nothing of sserpent is imported before, and no server:
sserpent looks which of them are there.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

#: What applications and servers import that takes its time.
IMPORTED = (
    "fastapi",
    "pydantic.v1",
    "click",
    "h11",
    "httptools",
    "logging.config",
    "psutil",
    "uvloop",
)


class Process:
    """A process that another one has started, with the methods of `subprocess.Popen`."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], log: int) -> None:
        self._command = command
        self.pid = _start(command, cwd, env, log)
        try:
            self._descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._descriptor = -1  # it has ended

    def wait(self, timeout: float | None = None) -> int:
        if self._descriptor >= 0:
            # The descriptor can be read once the process has ended.
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1_000):
                assert timeout is not None
                raise subprocess.TimeoutExpired(self._command, timeout)
            os.close(self._descriptor)
            self._descriptor = -1
        return 0  # nobody asks how it has ended

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# Of several threads that start processes at the same time, each is to have the ID of its own.
_starting = threading.Lock()


def _start(command: list[str], cwd: Path, env: dict[str, str], log: int) -> int:
    """Has a process started, and returns its ID."""
    request = json.dumps({"module": command[2:], "cwd": str(cwd), "env": env}).encode()
    with _starting:
        control = _warm()
        socket.send_fds(control, [request], [log])
        return int(control.recv(100))


@cache
def _warm() -> socket.socket:
    """The one that starts them; it ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def end() -> None:
        ours.close()
        process.wait(20)

    atexit.register(end)
    return ours


def main() -> None:
    """Forks for each request that comes on the socket, until its other end is closed."""
    for name in IMPORTED:
        with suppress(ImportError):
            import_module(name)
    signal.signal(signal.SIGCHLD, _bury)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        while True:
            request, (*log,), _, _ = socket.recv_fds(control, 1 << 20, 1)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                break
            os.close(log[0])
            control.send(b"%d" % pid)
    _become(json.loads(request), log[0])


def _bury(*_: object) -> None:
    """Has the system forget the processes that have ended."""
    with suppress(ChildProcessError):  # there is none
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(request: dict[str, Any], log: int) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]
    sys.argv = request["module"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
