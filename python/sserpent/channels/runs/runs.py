"""Runs: generators that go on when their clients leave, and can be followed again from anywhere."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import anyio
from fastapi import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..._delivery.generator_thread import ThreadOptions, ThreadSlots
from ..._delivery.wire import come_back_later
from ..._fastapi.limits import Slots, retry_after
from ..._fastapi.negotiation import add_vary
from ..._fastapi.response import EventSourceResponse, checked_content
from ..._runtime.loops import call_every, current_token, spawn
from ..channel import Key
from ..checks import checked_owner, checked_request
from ..fanout.hubs import Hubs
from ..fanout.request import Request, Selection
from ..history.broker import BrokerError, ChannelsClosed, Lease, RunBroker
from ..history.encoding import Encoding
from ..history.memory import UNLIMITED
from ..history.position import HistoryKey
from ..subscription import Subscription
from .outbox import MAX_BYTES
from .producer import Producer, end_item

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._fastapi.response import ResponseOptions

T = TypeVar("T")

#: The header of a response that follows a run: the id with which a client can come back to it.
RUN_ID = "Run-ID"

# In the place of the id of somebody who has none. No event has it, so that the client is told that
# the history is not what it was.
_EVICTED = "evicted"
# The reason of a run that somebody has stopped.
_REQUEST = "request"
# https://www.rfc-editor.org/rfc/rfc3986#section-2.3 has these as "unreserved".
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)


class RunsDefinition(NamedTuple):
    """What `Channels.runs` was given."""

    name: str
    item_type: Any
    ttl: float
    max_bytes: int
    shutdown_grace: float
    max_threads: int
    max_runs_per_owner: int | None


class Run(Generic[T]):
    """A run, as `Runs.start` returns it.

    Attributes:
        id: With which it can be followed and stopped.
    """

    def __init__(self, runs: Runs[T], run_id: str, owner: str | None) -> None:
        self.id = run_id
        self._runs = runs
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Run {self.id!r}>"

    def follow(
        self, *, after: str | None = None, **options: Unpack[ResponseOptions]
    ) -> Subscription[T]:
        """Returns the response that streams the run from its beginning to its end; the arguments
        are those of `Runs.follow`."""
        return self._runs._response(self.id, self._owner, after, options)


class Runs(Generic[T]):
    """Runs generators to their end, whether or not anybody follows them. `Channels.runs` makes it.

        runs = channels.runs("answers", str)

        @app.post("/answers", response_class=EventSourceResponse)
        async def ask(prompt: Prompt, user: User):
            run = await runs.start(answer(prompt), owner=user.id)
            return run.follow()

    The last event of a run is named `run-end`; its data is `{"run": id, "end": "done", "error",
    "stopped" or "lost", "reason": ...}`.
    """

    _definition: RunsDefinition
    _encoding: Encoding
    _hubs: Hubs
    _broker: RunBroker
    _producers: set[Producer]
    _watches: dict[Any, _Watch]
    _thread_slots: ThreadSlots
    _slots: Slots

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("Runs are made by channels.runs(name, item_type), not by calling Runs")

    @classmethod
    def _made(cls, definition: RunsDefinition, hubs: Hubs, broker: RunBroker) -> Runs[T]:
        runs = cls.__new__(cls)
        runs._definition = definition
        runs._encoding = Encoding(definition.item_type, f"runs {definition.name!r}")
        runs._hubs = hubs
        runs._broker = broker
        runs._producers = set()
        runs._watches = {}
        runs._thread_slots = ThreadSlots()
        runs._slots = Slots()
        return runs

    # What users call

    async def start(
        self,
        source: AsyncIterable[Any] | Iterable[Any],
        *,
        owner: Key | None = None,
        id: str | None = None,
    ) -> Run[T]:
        """Starts a run.

        Args:
            source: A generator, as in any streaming route, or another iterable of events, but no
                `str`, `bytes`, mapping or model; it may not set an `id`, nor name an
                event as channels and runs name their own.
            owner: Who alone can follow and stop the run, compared by its text: 7 is "7".
            id: Of the run, for this owner: 1 to 128 letters, digits, `-`, `.`, `_` or `~`. If
                there is such a run already, `source` is closed, and that run returned. 128 random
                bits unless given.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: `id` breaks its rule.
            fastapi.HTTPException: 429 with `Retry-After`, the owner has `max_runs_per_owner`.
            BrokerUnavailable: the broker could not be reached; nothing has been started.
            RuntimeError: the channels are closed.
        """
        whose = checked_owner(owner)
        checked_content(
            f"'source' of runs {self._definition.name!r} must be a generator of events", source
        )
        run_id = secrets.token_hex(16) if id is None else _checked_id(id)
        key = self._key(run_id, whose)
        limits = self._limits_of(whose)
        if not self._slots.take(limits):
            await _close(source)
            if id is not None and await self._broker.status(key) is not None:
                return Run(self, run_id, whose)
            raise _too_many()
        producer = Producer(
            run_id,
            key,
            source,
            self._encoding,
            self._broker,
            self._definition.max_bytes,
            self._definition.shutdown_grace,
            self._thread_options(run_id),
            partial(self._ended, limits),
        )
        fence = None
        try:
            fence = await self._broker.start(key, self._definition.ttl, producer.stop)
        finally:
            if fence is None:
                self._slots.give_back(limits)
                await _close(source)
        if fence is not None:
            self._producers.add(producer)
            producer.start(fence)
        return Run(self, run_id, whose)

    async def follow(
        self,
        run_id: str,
        *,
        owner: Key | None = None,
        after: str | None = None,
        **options: Unpack[ResponseOptions],
    ) -> Response:
        """Returns the response that streams a run, from an id or from its beginning to its end.

        Args:
            run_id: `Run.id`, the header `Run-ID`.
            owner: Whose run it is.
            after: The last event ID of the client, as it came (`LastEventID`). If that is the last
                event of the run, the response is a 204, at which an `EventSource` stops.
            options: As for `Channel.subscribe`.

        Raises:
            fastapi.HTTPException: 404, this owner has no such run.
            TypeError: an argument has the wrong type; the message names it.
        """
        whose = checked_owner(owner)
        key = self._key(_possible_id(run_id), whose)
        try:
            status = await self._broker.status(key)
        except BrokerError:
            return _varied(Response(come_back_later(), media_type="text/event-stream"), options)
        if status is None:
            raise _unknown()
        if status.end is not None and after == str(status.end):
            return _varied(Response(status_code=204), options)
        if status.is_evicted:
            after = after or _EVICTED
        return self._response(run_id, whose, after, options)

    async def stop(self, run_id: str, *, owner: Key | None = None) -> None:
        """Stops a run, and returns when that is recorded. The generator is cancelled, its cleanup
        runs, and what it has yielded is kept. A run that has ended is left as it is.

        Raises:
            fastapi.HTTPException: 404, this owner has no such run.
            BrokerUnavailable: the broker could not be reached.
        """
        key = self._key(_possible_id(run_id), checked_owner(owner))
        if not await self._broker.stop(key, _REQUEST):
            raise _unknown()

    # What is made of it

    def _limits_of(self, owner: str | None) -> dict[Any, int]:
        limit = self._definition.max_runs_per_owner
        return {} if limit is None or owner is None else {owner: limit}

    def _thread_options(self, run_id: str) -> ThreadOptions:
        return ThreadOptions(
            f"run {run_id!r}",
            self._thread_slots,
            self._definition.max_threads,
            MAX_BYTES,
            keeps_last=True,
        )

    def _ended(self, limits: dict[Any, int], producer: Producer) -> None:
        self._producers.discard(producer)
        self._slots.give_back(limits)

    def _key(self, run_id: str, owner: str | None) -> HistoryKey:
        """Returns where a run is kept: runs of others are elsewhere, and so as unknown as those
        that do not exist."""
        return HistoryKey(self._definition.name, json.dumps([owner, run_id]))

    def _response(
        self, run_id: str, owner: str | None, after: str | None, options: ResponseOptions
    ) -> Subscription[T]:
        key = self._key(run_id, owner)
        selection = Selection(key, UNLIMITED, "gap", None, self._encoding.decode, ends=True)
        request = checked_request(
            (selection,), several=False, after=after, start="earliest", filter=None
        )
        options["headers"] = {**(options.get("headers") or {}), RUN_ID: run_id}
        return _Following(self, run_id, self._hubs, request, owner, **options)

    def _watch(self) -> _Watch:
        token = current_token()
        watch = self._watches.get(token)
        if watch is None:
            watch = self._watches[token] = _Watch(
                self._broker, lambda: self._watches.pop(token, None)
            )
        return watch

    async def _aclose(self) -> None:
        """Ends the runs of this process, each within its grace."""
        producers = list(self._producers)
        for producer in producers:
            producer.shut_down()
        for producer in producers:
            await producer.ended.wait()


class _Following(Subscription[Any]):
    """Follows a run, and looks meanwhile whether its producer is alive."""

    _arguments = ("owner", "after", *EventSourceResponse._arguments)

    def __init__(
        self,
        runs: Runs[Any],
        run_id: str,
        hubs: Hubs,
        request: Request,
        *args: Any,
        **options: Any,
    ) -> None:
        self._runs = runs
        self._run_id = run_id
        super().__init__(hubs, request, *args, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self._runs._watch()
        run = self._request.selections[0].key
        watch.add(run, self._run_id)
        try:
            await super().__call__(scope, receive, send)
        finally:
            watch.discard(run)


# Its errors are for users, who know it as that.
_Following.__name__ = Subscription.__name__


class _Watch:
    """Ends, as lost, the runs whose producers have died, as long as somebody follows them here.

    Args:
        broker: Keeps them.
        forget: Called when there is nothing left to watch.
    """

    def __init__(self, broker: RunBroker, forget: Callable[[], object]) -> None:
        self._broker = broker
        self._forget = forget
        self._followers: Counter[HistoryKey] = Counter()
        self._ids: dict[HistoryKey, str] = {}
        self._end = call_every(Lease.RENEWAL, self._look)

    def add(self, run: HistoryKey, run_id: str) -> None:
        self._followers[run] += 1
        self._ids[run] = run_id
        spawn(self._end_lost, run, run_id)

    def discard(self, run: HistoryKey) -> None:
        self._followers[run] -= 1
        if not self._followers[run]:
            del self._followers[run], self._ids[run]
        if not self._followers:
            self._end()
            self._forget()

    def _look(self) -> None:
        for run, run_id in self._ids.items():
            spawn(self._end_lost, run, run_id)

    async def _end_lost(self, run: HistoryKey, run_id: str) -> None:
        try:
            await self._broker.end(run, None, end_item(run_id, "lost", None))
        except (BrokerError, ChannelsClosed):
            pass  # it is looked for again, if anybody is left


def _varied(response: Response, options: ResponseOptions) -> Response:
    """Returns what stands in the place of a stream that would be compressed for some clients."""
    if options.get("compress"):
        add_vary(response)
    return response


def _checked_id(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"'id' must be a string, not {type(value).__name__}")
    if not _ID.fullmatch(value):
        raise ValueError("'id' must be 1 to 128 letters, digits, '-', '.', '_' or '~'")
    return value


def _possible_id(value: Any) -> str:
    """Returns an id that a client has named.

    Raises:
        fastapi.HTTPException: 404, no run has such an id.
        TypeError: it is no string.
    """
    if not isinstance(value, str):
        raise TypeError(f"'run_id' must be a string, not {type(value).__name__}")
    if not _ID.fullmatch(value):
        raise _unknown()
    return value


def _too_many() -> HTTPException:
    # Not the 503 of a server that is full: it is the quota of this owner, who can stop a run.
    return HTTPException(429, "Too many runs", {"Retry-After": retry_after()})


def _unknown() -> HTTPException:
    return HTTPException(404, "There is no such run")


async def _close(source: Any) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        with anyio.CancelScope(shield=True):
            await close()
    elif hasattr(source, "close"):
        source.close()
