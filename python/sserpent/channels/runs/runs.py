"""Runs: generators that go on when their clients leave, and can be followed again from anywhere."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast, get_args

import anyio
from fastapi import HTTPException

from ..._delivery.generator_thread import ThreadOptions, ThreadSlots
from ..._fastapi.limits import retry_after
from ..._fastapi.response import EventSourceResponse, checked_content
from ..._runtime.log import logger
from ..._runtime.loops import current_token, spawn
from ..channel import Key
from ..checks import checked_key, checked_owner
from ..fanout.hubs import Hubs
from ..fanout.request import Request, Selection
from ..history.broker import BrokerError, ChannelsClosed, RunBroker
from ..history.control_events import RUN_END
from ..history.position import HistoryKey, parse_id
from ..history.ring import UNLIMITED
from ..listener import Listener
from ..subscription import Subscription
from .end_subscriber import EndSubscriber
from .ends import REQUEST, RunStatus, end_item, status_of
from .following import Following, Watch, following_class, unknown
from .keys import Claim, IfActive, RunKeys
from .local_runs import LocalRuns, Place
from .outbox import MAX_BYTES
from .producer import Producer
from .run_encoding import RunEncoding

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from ..._fastapi.response import ResponseOptions

T = TypeVar("T")

# https://www.rfc-editor.org/rfc/rfc3986#section-2.3 has these as "unreserved".
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)


class RunsDefinition(NamedTuple):
    """The arguments of `Channels.runs`."""

    name: str
    item_type: Any
    ttl: float
    max_bytes: int
    shutdown_grace: float
    max_threads: int
    max_runs_per_owner: int | None
    response_class: type[EventSourceResponse]


class Run(Generic[T]):
    """A run, as `Runs.start` returns it.

    Attributes:
        id: The id, with which the run can be followed and stopped.
    """

    def __init__(self, runs: Runs[T], run_id: str, owner: str | None) -> None:
        self.id = run_id
        self._runs = runs
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Run {self.id!r}>"

    def follow(
        self, *, after: str | int | None = None, **options: Unpack[ResponseOptions]
    ) -> Subscription[T]:
        """Returns the response that streams the run from its beginning to its end.

        Args:
            after, options: As for `Runs.follow`. Exceptions of `Runs.follow` are raised when this
                response is called, before its headers are sent.
        """
        return self._runs._response(self.id, self._owner, after, options)

    async def stop(self) -> None:
        """Stops the run, like `Runs.stop`."""
        await self._runs._stop(self.id, self._owner)

    async def wait(self) -> RunStatus:
        """Waits for the end of the run, and returns how it has ended, like `Runs.wait`."""
        return await self._runs._wait(self.id, self._owner)


class Runs(Generic[T]):
    """Generators that run to their end, even if no client follows them. Made by `Channels.runs`.

        runs = channels.runs("answers", str)

        @app.post("/answers", response_class=EventSourceResponse)
        async def ask(prompt: Prompt, user: User):
            run = await runs.start(answer(prompt), owner=user.id)
            return run.follow()

    The last event of a run is named `run-end`; its data is `{"run": id, "end": "done", "error",
    "stopped" or "lost", "reason": ...}`.
    """

    _definition: RunsDefinition
    _encoding: RunEncoding
    _following: type[Following]
    _hubs: Hubs
    _broker: RunBroker
    _local: LocalRuns
    _watches: dict[Any, Watch]
    _thread_slots: ThreadSlots
    _keys: RunKeys

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("Runs are made by channels.runs(name, item_type), not by calling Runs")

    @classmethod
    def _made(cls, definition: RunsDefinition, hubs: Hubs, broker: RunBroker) -> Runs[T]:
        runs = cls.__new__(cls)
        runs._definition = definition
        owner = f"runs {definition.name!r}"
        runs._encoding = RunEncoding(definition.item_type, owner, definition.response_class)
        runs._following = following_class(definition.response_class)
        runs._hubs = hubs
        runs._broker = broker
        runs._local = LocalRuns(definition.max_runs_per_owner)
        runs._watches = {}
        runs._thread_slots = ThreadSlots()
        runs._keys = RunKeys(broker, runs._key)
        return runs

    # Called by users

    async def start(
        self,
        source: AsyncIterable[Any] | Iterable[Any],
        *,
        owner: Key | None = None,
        id: str | None = None,
        key: Key | None = None,
        if_active: IfActive = "refuse",
    ) -> Run[T]:
        """Starts a run. If `source` is not run, it is closed.

        Args:
            source: A generator as in any streaming route, or another iterable of events, but not a
                `str`, `bytes`, mapping or model. Its events must not have an `id`, or a name that
                channels and runs use themselves.
            owner: The only user who can follow and stop the run, compared by its text: 7 is "7".
            id: The id of the run for this owner: 1 to 128 letters, digits, `-`, `.`, `_` or `~`. If
                this run exists already, it is returned, whatever the `key` is. The default is 128
                random bits.
            key: A chat, a thread, or anything else that has at most one active run for this owner.
                A `str`, `int` or UUID, compared by its text. A run is active until it ends or its
                process dies.
            if_active: What happens while a run of this `key` is active. "refuse", the default,
                raises a 409. "join" returns that run, for a client that repeats its request. "stop"
                stops that run and begins at once, for a message that interrupts. "join" and "stop"
                need a `key`.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
            fastapi.HTTPException: 409, a run of this key is active; 429 with `Retry-After`, the
                owner has `max_runs_per_owner`.
            BrokerUnavailable: the broker could not be reached; nothing has been started.
            ChannelsClosed: the channels are closed.
        """
        checked_content(
            f"'source' of runs {self._definition.name!r} must be a generator of events", source
        )
        async with _Starting(self, source) as starting:
            await starting.start(
                secrets.token_hex(16) if id is None else _checked_id(id),
                checked_owner(owner),
                None if key is None else checked_key("key", key),
                _checked_if_active(if_active, key),
                may_exist=id is not None,
            )
        return Run(self, starting.run_id, starting.owner)

    async def follow(
        self,
        run_id: str | None = None,
        *,
        key: Key | None = None,
        owner: Key | None = None,
        after: str | int | None = None,
        **options: Unpack[ResponseOptions],
    ) -> Subscription[T]:
        """Returns the response that streams a run to its end, from its beginning or from where the
        client was.

        Args:
            run_id: `Run.id`, the header `Run-ID`.
            key: Instead of `run_id`: follows the active run of this key. If no run is active, the
                response is a 204.
            owner: The owner of the run.
            after: The last event that the client has: its id (`LastEventID`), or its number in the
                run, counted from 0. If that is the end of the run, the response is a 204, and an
                `EventSource` stops. If the run has no such event, the response begins with a
                `reset`. With a protocol class it is a 400 instead.
            options: As for `Channel.subscribe`.

        Raises:
            fastapi.HTTPException: 404, this owner has no such run; 503, the broker could not be
                reached, with a protocol class. Otherwise the response is then an empty stream with
                a `retry`.
            TypeError: an argument has the wrong type, or there are both `run_id` and `key`, or
                neither; the message names it.
        """
        whose = checked_owner(owner)
        if _is_by_key("follow", run_id, key):
            return await self._follow_active(checked_key("key", key), whose, after, options)
        following = self._response(_possible_id(run_id), whose, after, options)
        await following.look()
        return following

    async def stop(
        self, run_id: str | None = None, *, key: Key | None = None, owner: Key | None = None
    ) -> None:
        """Stops a run, and returns when the request is stored. The generator is cancelled, its
        cleanup runs, and the events that it has yielded are kept. If the run has ended already,
        nothing happens.

        Args:
            run_id: The id of the run.
            key: Instead of `run_id`: stops the active run of this key, if there is one.
            owner: The owner of the run.

        Raises:
            fastapi.HTTPException: 404, this owner has no run of this id.
            TypeError: an argument has the wrong type, or there are both `run_id` and `key`, or
                neither; the message names it.
            BrokerUnavailable: the broker could not be reached.
        """
        whose = checked_owner(owner)
        if not _is_by_key("stop", run_id, key):
            await self._stop(_possible_id(run_id), whose)
            return
        active = await self._keys.active(checked_key("key", key), whose)
        if active is not None:
            await self._broker.stop(self._key(active, whose), REQUEST)

    async def active(self, key: Key, *, owner: Key | None = None) -> Run[T] | None:
        """Returns the active run of a key, or None if there is none.

        Args:
            key: The key that the run was started with.
            owner: The owner that the run was started with.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            BrokerUnavailable: the broker could not be reached.
        """
        whose = checked_owner(owner)
        active = await self._keys.active(checked_key("key", key), whose)
        return None if active is None else Run(self, active, whose)

    async def status(self, run_id: str, *, owner: Key | None = None) -> RunStatus:
        """Returns the state of a run: whether it is active, or how it has ended.

        Args:
            run_id: The id of the run.
            owner: The owner of the run.

        Raises:
            fastapi.HTTPException: 404, this owner has no such run.
            TypeError: an argument has the wrong type; the message names it.
            BrokerUnavailable: the broker could not be reached.
        """
        return await self._status(_possible_id(run_id), checked_owner(owner))

    async def wait(self, run_id: str, *, owner: Key | None = None) -> RunStatus:
        """Waits for the end of a run, and returns how it has ended. A lost run has ended too.

        Args:
            run_id: The id of the run.
            owner: The owner of the run.

        Raises:
            fastapi.HTTPException: 404, this owner has no such run.
            TypeError: an argument has the wrong type; the message names it.
            BrokerUnavailable: the broker could not be reached when the wait began.
        """
        return await self._wait(_possible_id(run_id), checked_owner(owner))

    # By checked arguments

    async def _follow_active(
        self, key: str, owner: str | None, after: str | int | None, options: ResponseOptions
    ) -> Subscription[T]:
        active, is_away = None, False
        try:
            active = await self._keys.active(key, owner)
        except (BrokerError, ChannelsClosed):
            is_away = True
        following = self._response(active or "", owner, after, options)
        if is_away:
            following.answer_away()
        elif active is None:
            following.answer_nothing()
        else:
            await following.look()
        return following

    async def _stop(self, run_id: str, owner: str | None) -> None:
        if not await self._broker.stop(self._key(run_id, owner), REQUEST):
            raise unknown()

    async def _status(self, run_id: str, owner: str | None) -> RunStatus:
        key = self._key(run_id, owner)
        record = await self._broker.status(key)
        if record is not None and record.end_body is None and not record.is_alive:
            await self._broker.end(key, None, end_item(run_id, "lost", None))
            record = await self._broker.status(key)
        if record is None:
            raise unknown()
        return status_of(run_id, record)

    async def _wait(self, run_id: str, owner: str | None) -> RunStatus:
        # First: a run of which nothing is known would be ended as lost by the watch.
        await self._status(run_id, owner)
        key, watch = self._key(run_id, owner), self._watch()
        watch.add(key, run_id)
        try:
            async with Listener(
                lambda: EndSubscriber(self._hubs.hub(), self._request(key))
            ) as events:
                status = await self._status(run_id, owner)
                return status if status.state != "running" else await _end_of(run_id, events)
        finally:
            watch.discard(key)

    # The parts of a run, and the response that follows it

    def _thread_options(self, run_id: str) -> ThreadOptions:
        return ThreadOptions(
            f"run {run_id!r}",
            self._thread_slots,
            self._definition.max_threads,
            MAX_BYTES,
            keeps_last=True,
        )

    def _key(self, run_id: str, owner: str | None) -> HistoryKey:
        """Returns where a run is kept: runs of others are elsewhere, and so as unknown as those
        that do not exist."""
        return HistoryKey(self._definition.name, json.dumps([owner, run_id]))

    def _response(
        self, run_id: str, owner: str | None, after: str | int | None, options: ResponseOptions
    ) -> Following:
        selection = self._selection(self._key(run_id, owner))
        return self._following(
            self._hubs, self._broker, selection, run_id, owner, after, self._watch, **options
        )

    def _selection(self, key: HistoryKey) -> Selection:
        return Selection(key, UNLIMITED, "gap", None, self._encoding.decode, ends=True)

    def _request(self, key: HistoryKey) -> Request:
        """Returns what somebody asks for who waits for what is still to come."""
        return Request(
            (self._selection(key),), several=False, after=None, start="live", filter=None
        )

    def _watch(self) -> Watch:
        token = current_token()
        watch = self._watches.get(token)
        if watch is None:
            watch = self._watches[token] = Watch(
                self._broker, lambda: self._watches.pop(token, None)
            )
        return watch

    def _shut_down(self) -> None:
        """Ends the runs of this process, each within its grace."""
        for producer in self._local.producers:
            producer.shut_down_soon()

    def _log_wait(self) -> None:
        """Says why the server does not exit yet."""
        count, grace = len(self._local.producers), self._definition.shutdown_grace
        if count and grace:
            logger.info(
                "Waiting up to %g s (shutdown_grace) for the active runs of %r to end: %d",
                grace,
                self._definition.name,
                count,
            )

    async def _ended(self) -> None:
        """Returns when the runs of this process have ended, and those that a run has started in its
        cleanup."""
        while producers := self._local.producers:
            self._shut_down()
            for producer in producers:
                await producer.wait_until_ended()
                self._local.remove(producer)


class _Starting:
    """A run that is about to start. If it does not, its source is closed, and what it has taken
    goes back.

    Attributes:
        run_id, owner: Of the run that is there in the end.
    """

    def __init__(self, runs: Runs[Any], source: Any) -> None:
        self._runs = runs
        self._broker = runs._broker
        self._source = source
        self._claim: Claim | None = None
        self._place: Place | None = None
        self._has_started = False
        self.run_id = ""
        self.owner: str | None = None

    async def __aenter__(self) -> _Starting:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_started:
            return
        if self._place is not None:
            self._runs._local.give_back(self._place)
        if self._claim is not None:
            spawn(self._runs._keys.free, self._claim)
        await _close(self._source)

    async def start(
        self, run_id: str, owner: str | None, key: str | None, if_active: IfActive, may_exist: bool
    ) -> None:
        """Starts the run, unless another is to be returned."""
        self.run_id, self.owner = run_id, owner
        run = self._runs._key(run_id, owner)
        if key is not None and may_exist and await self._broker.status(run) is not None:
            return
        stopped: HistoryKey | None = None
        if key is not None:
            is_taken, other = await self._take(key, if_active)
            if not is_taken:
                return
            stopped = None if other is None else self._runs._key(other, owner)
        self._place = self._runs._local.take_place(owner, stopped)
        if self._place is not None:
            await self._begin(run, self._place)
        elif not (may_exist and await self._broker.status(run) is not None):
            raise _too_many()

    async def _take(self, key: str, if_active: IfActive) -> tuple[bool, str | None]:
        keys = self._runs._keys
        self._claim = keys.claim_of(key, self.owner, self.run_id)
        is_taken, other = await keys.take(self._claim, self.owner, if_active)
        if not is_taken:
            assert other is not None
            self.run_id = other
        return is_taken, other

    async def _begin(self, run: HistoryKey, place: Place) -> None:
        runs = self._runs
        producer = Producer(
            self.run_id,
            run,
            self._source,
            runs._encoding,
            self._broker,
            runs._definition.max_bytes,
            runs._definition.shutdown_grace,
            runs._thread_options(self.run_id),
            runs._local.remove,
            runs._hubs.known,
            None if self._claim is None else (self._claim, runs._keys),
        )
        fence = await self._broker.start(run, runs._definition.ttl, producer.stop)
        if fence is None:
            return
        self._has_started = True
        runs._local.add(run, producer, place)
        try:
            if self._claim is not None and await runs._keys.is_superseded(self._claim):
                producer.stop(REQUEST)
        except BrokerError:
            producer.renew_soon()
        finally:
            producer.start(fence)


async def _end_of(run_id: str, events: Listener) -> RunStatus:
    """Returns how a run has ended, when it has.

    Raises:
        ChannelsClosed: this process does not follow it any more.
    """
    async for event in events:
        position = parse_id(event.id or "")
        if event.event == RUN_END and position is not None:
            said = cast("Any", event).data
            yielded = position.offset - 1
            return RunStatus(run_id, said["end"], said["reason"], said.get("status"), yielded)
    raise ChannelsClosed


def _is_by_key(method: str, run_id: Any, key: Any) -> bool:
    if (run_id is None) == (key is None):
        given = "neither" if key is None else "both"
        raise TypeError(f"{method}() takes 'run_id' or 'key', one of them, not {given}")
    return key is not None


def _checked_if_active(value: Any, key: Key | None) -> IfActive:
    if not isinstance(value, str):
        raise TypeError(f"'if_active' must be a string, not {type(value).__name__}")
    if value not in get_args(IfActive):
        names = ", ".join(map(repr, get_args(IfActive)))
        raise ValueError(f"'if_active' must be one of {names}, not {value!r}")
    if key is None and value != "refuse":
        raise ValueError(
            f"'if_active' is {value!r}, but 'key' is missing: it says what happens while a run of"
            " that key is active"
        )
    return cast("IfActive", value)


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
        raise unknown()
    return value


def _too_many() -> HTTPException:
    # Not the 503 of a server that is full: it is the quota of this owner, who can stop a run.
    return HTTPException(429, "Too many runs", {"Retry-After": retry_after()})


async def _close(source: Any) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        with anyio.CancelScope(shield=True):
            await close()
    elif hasattr(source, "close"):
        source.close()
