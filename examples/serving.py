"""Serves an app in a process of its own, for the demo and the benchmark on the page."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

DIRECTORY = Path(__file__).parent


class Server:
    """An app on uvicorn in a child process, for as long as a `with` block lasts.

    Args:
        app: As uvicorn takes it, "module:name".
        port: 0 for any that is free.
        environment: Variables to set, or with None to unset, for the child.

    Raises:
        RuntimeError: the app does not start.
    """

    def __init__(self, app: str, port: int = 0, environment: dict[str, str | None] | None = None):
        self._app = app
        self._port = port
        variables = {**os.environ, **(environment or {})}
        self._environment = {name: text for name, text in variables.items() if text is not None}

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, __file__, self._app, str(self._port)],
            cwd=DIRECTORY,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            if not line.strip().isdigit():
                raise RuntimeError(f"the server of {self._app} did not start; its log is above")
            self.port = int(line)
            self.url = f"http://127.0.0.1:{self.port}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        process = self.process
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def main(app: str, port: str) -> None:
    """Serves the app in the child, and prints its port as soon as it listens."""
    import uvicorn

    class TellingServer(uvicorn.Server):
        async def startup(self, *args: object, **kwargs: object) -> None:
            await super().startup(*args, **kwargs)
            if self.started:
                print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    sys.path.insert(0, str(DIRECTORY))
    server = TellingServer(uvicorn.Config(app, port=int(port), log_level="warning"))

    def end_with_the_parent() -> None:
        # The other end of the pipe closes however the parent ends, even by SIGKILL.
        os.read(0, 1)
        server.should_exit = True

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    try:
        server.run()
    except KeyboardInterrupt:
        pass  # Ctrl-C goes to the child too; it has shut down by now


if __name__ == "__main__":
    main(*sys.argv[1:])
