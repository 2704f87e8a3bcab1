"""The lifespan of an application, if it has one.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

from typing import Any

from anyio import CancelScope, Event, fail_after, sleep_forever
from starlette.types import ASGIApp, Message

from .. import _shutdown
from .task import Task


class Lifespan:
    """Starts an application up and shuts it down.

    Attributes:
        state: What the application keeps for its requests.
    """

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._timeout = timeout
        # Whether the application takes part: it need not.
        self._takes_part = False
        # Its message about a startup or shutdown that has failed.
        self._failure: str | None = None
        self._asked = False
        self._shutdown = Event()
        # Set by what the application says, and by its end.
        self._started = Event()
        self._stopped = Event()

    async def start(self) -> None:
        """Raises what the application raises while it starts up.

        Raises:
            RuntimeError: it says that it cannot.
            TimeoutError: it takes too long.
        """
        self._task = Task(self._run)
        try:
            await self._wait(self._started, "start up")
        except BaseException:
            await self._end()
            raise

    async def stop(self) -> None:
        """Raises what the application raises while it shuts down.

        Raises:
            RuntimeError: it says that it cannot.
            TimeoutError: it takes too long.
        """
        self._shutdown.set()
        try:
            if self._takes_part:
                await self._wait(self._stopped, "shut down")
                if self._task.error is not None:
                    raise self._task.error
        finally:
            await self._end()

    async def _wait(self, answer: Event, what: str) -> None:
        try:
            with fail_after(self._timeout):
                await answer.wait()
        except TimeoutError:
            raise TimeoutError(
                f"the application did not {what} within {self._timeout} s (its lifespan)"
                + _open_runs()
            ) from None
        if self._failure is not None:
            # Starlette raises what has happened after it has said so.
            await self._task.has_ended(within=self._timeout)
            raise self._task.error or RuntimeError(
                f"the application did not {what}: {self._failure}"
            )

    async def _end(self) -> None:
        self._task.cancel()
        with CancelScope(shield=True):
            await self._task.has_ended(within=self._timeout)

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        finally:
            self._started.set()
            self._stopped.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._shutdown.wait()
        if self._stopped.is_set():
            await sleep_forever()  # until the task is cancelled
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        event = message["type"].removeprefix("lifespan.")
        if event == "startup.complete":
            self._takes_part = True
            self._started.set()
        elif event == "shutdown.complete":
            self._stopped.set()
        elif event in ("startup.failed", "shutdown.failed"):
            self._failure = message.get("message", "")
            (self._started if event == "startup.failed" else self._stopped).set()
        else:
            raise RuntimeError(f"the application sent {message['type']!r} as to its lifespan")


def _open_runs() -> str:
    """Returns the part of an error that names the runs that go on, and says how to end them."""
    ids = sorted(getattr(each, "run_id", "") for each in _shutdown.open_streams())
    names = ", ".join(repr(run_id) for run_id in ids if run_id)
    if not names:
        return ""
    return (
        f". These runs go on: {names}. Stop them in the test (await runs.stop(id)), or create them"
        " with shutdown_grace=0"
    )
