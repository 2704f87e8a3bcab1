"""The response that streams a run to one client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from fastapi import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ... import _shutdown
from ..._delivery.observer import route_of
from ..._delivery.options import set_unchecked
from ..._fastapi.limits import empty_stream
from ..._fastapi.negotiation import add_vary
from ..._fastapi.protocol_response import ProtocolResponse
from ..._fastapi.response import EventSourceResponse
from ..._runtime.log import logger
from ..._runtime.loops import call_every, spawn
from ..checks import checked_request
from ..fanout.hubs import Hubs
from ..fanout.request import Selection
from ..fanout.subscriber import Subscriber
from ..history.broker import BrokerError, ChannelsClosed, Lease, RunBroker, RunRecord
from ..history.position import MAX_ID, NOWHERE, HistoryKey, Position
from ..subscription import Subscription, broker_is_away
from .ends import end_item
from .protocol_subscriber import FollowerCut, ProtocolSubscriber, RunFailed

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..._fastapi.response import ResponseOptions

#: The header of a response that follows a run: the id with which a client can come back to it.
RUN_ID = "Run-ID"
# A page of another origin can read it only if this header names it.
_EXPOSE = "Access-Control-Expose-Headers"

# Stands for the id of a client that has none, or for a number that no event has. No event has this
# id, so the client is told that its position is unknown.
_NO_PLACE = "none"
# The routes, classes and runs of which the log has said that they do not fit.
_told_of: set[tuple[str, str, str]] = set()


class Following(Subscription[Any]):
    """Follows a run, and looks meanwhile whether its producer is alive.

    Args:
        hubs: Of the channels.
        broker: Keeps the run.
        selection: The run.
        run_id: What clients know it by.
        owner: Whose it is.
        after: The last event that the client has: its id, or its number from 0.
        watch: Returns what looks whether the producers of runs are alive, in this event loop.

    A class whose followers have a protocol is a subclass of this one and of the run's
    `response_class` (`following_class`).
    """

    _arguments = ("owner", "after", *EventSourceResponse._arguments)
    # The response that is sent in its place, once that is known.
    _instead: Response | None = None
    _has_looked = False
    _scope: Scope | None = None

    def __init__(
        self,
        hubs: Hubs,
        broker: RunBroker,
        selection: Selection,
        run_id: str,
        owner: str | None,
        after: str | int | None,
        watch: Callable[[], Watch],
        **options: Unpack[ResponseOptions],
    ) -> None:
        self._broker = broker
        self._run_id = run_id
        self._after = checked_after(after)
        self._watch = watch
        request = checked_request(
            (selection,), several=False, after=None, start="earliest", filter=None
        )
        options["headers"] = _with_run_id(options.get("headers"), run_id)
        super().__init__(hubs, request, owner, **options)

    async def look(self) -> None:
        """Finds out where the client begins.

        Raises:
            fastapi.HTTPException: 404, there is no such run; 503, the broker is away, and the
                class has a protocol.
        """
        self._has_looked = True
        try:
            record = await self._broker.status(self._request.selections[0].key)
        except (BrokerError, ChannelsClosed):
            self.answer_away()
            return
        if record is None:
            raise unknown()
        if _has_everything(record, self._after):
            self._send_instead(Response(status_code=204))
        else:
            after = _id_after(record, self._after)
            if after is None and record.is_evicted and not self._cuts:
                after = _NO_PLACE
            self._request = self._request._replace(after=after)

    def answer_away(self) -> None:
        """Answers with an empty stream that tells the client to come back: the broker is away, or
        the channels are closed.

        Raises:
            fastapi.HTTPException: 503, the class has a protocol.
        """
        if self._cuts:
            raise broker_is_away(self.compress) from None
        self._has_looked = True
        self._send_instead(empty_stream(self))

    def answer_nothing(self) -> None:
        """Answers with a 204: there is nothing to follow."""
        self._has_looked = True
        self._send_instead(Response(status_code=204))

    def _send_instead(self, response: Response) -> None:
        if self.compress:
            add_vary(response)
        self._instead = response
        self.status_code = response.status_code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._compare_with_route(scope)
        if not self._has_looked and scope["type"] != "websocket":
            await self.look()
        if self._instead is not None:
            await self._instead(scope, receive, send)
            return
        watch = self._watch()
        run = self._request.selections[0].key
        watch.add(run, self._run_id)
        try:
            await super().__call__(scope, receive, send)
        finally:
            watch.discard(run)

    def _compare_with_route(self, scope: Scope) -> None:
        """Warns, once for each route, if that names a protocol which its runs do not have."""
        route: Any = scope.get("route")
        named: Any = getattr(route, "response_class", None)
        if not (isinstance(named, type) and issubclass(named, ProtocolResponse)):
            return
        runs = self._request.selections[0].key.channel
        mismatch = route_of(scope), named.__name__, runs
        if not isinstance(self, named) and mismatch not in _told_of:
            _told_of.add(mismatch)
            logger.warning(
                "Route '%s' has response_class=%s, and follows runs '%s', which are made without"
                " it: their followers are not sent that protocol. Pass response_class=%s to"
                " channels.runs(%r)",
                mismatch[0],
                named.__name__,
                runs,
                named.__name__,
                runs,
            )

    # Alike in all protocols

    def _make_subscriber(self) -> Subscriber:
        if not self._cuts:
            return super()._make_subscriber()
        hub, protocol = self._hubs.hub(), cast("type[ProtocolResponse]", type(self))
        return ProtocolSubscriber(hub, self._request, self.max_pending, self._owner, protocol)

    def _check_opened(self, subscriber: Subscriber) -> None:
        if isinstance(subscriber, ProtocolSubscriber) and subscriber.is_cut:
            raise HTTPException(400, "The last event ID is not one of this run")

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        try:
            await super()._stream(scope, receive, send)
        finally:
            self._scope = None

    def _close(self, buffer: Any, error: BaseException | None, is_lost: bool = False) -> bool:
        ends_whole = error is None and not is_lost
        if not isinstance(buffer, ProtocolSubscriber):
            return ends_whole  # its events, the last ones included, come from elsewhere
        if isinstance(error, FollowerCut):
            if self._scope is None or _shutdown.can_close(self._scope):
                return False
            is_lost = True
        if buffer.has_end_mark:
            set_unchecked(self, "_has_end_mark", True)
        try:
            frames = self._closing_frames(buffer.stream_end())
        except BaseException:  # one that leaves here would end no stream, or all of them
            logger.exception("%s cannot be ended as it should be, and is cut", self._origin)
            return False
        if frames is None:
            return ends_whole
        buffer.append(frames)
        return not is_lost

    def _late_error(self, error: BaseException) -> BaseException | None:
        return None if isinstance(error, (RunFailed, FollowerCut)) else super()._late_error(error)


def following_class(response_class: type[EventSourceResponse]) -> type[Following]:
    """Returns the class of responses that follow runs of a class."""
    if response_class is EventSourceResponse:
        return Following
    name, doc = Following.__name__, response_class.__doc__
    return cast("type[Following]", type(name, (Following, response_class), {"__doc__": doc}))


# Its errors are for users, who know it as that.
Following.__name__ = Subscription.__name__


def _with_run_id(given: Mapping[str, str] | None, run_id: str) -> dict[str, str]:
    headers = {**(given or {}), RUN_ID: run_id}
    if _EXPOSE.lower() not in map(str.lower, headers):
        headers[_EXPOSE] = RUN_ID
    return headers


def checked_after(value: Any) -> str | int | None:
    """Returns `after`, and cuts text that is longer than any id of ours.

    Raises:
        TypeError: it is no id, number or None.
    """
    if isinstance(value, bool) or not (value is None or isinstance(value, (str, int))):
        raise TypeError(
            f"'after' must be an id, the number of an event or None, not {type(value).__name__}"
        )
    # A longer one is no id of ours, and need not be kept as long as the stream.
    return value[: MAX_ID + 1] if isinstance(value, str) else value


def _has_everything(record: RunRecord, after: str | int | None) -> bool:
    if record.end_body is None:
        return False
    if isinstance(after, int):
        return after >= record.events
    return after == str(record.head)


def _id_after(record: RunRecord, after: str | int | None) -> str | None:
    """Returns the id of the event after which a client begins; None for the beginning."""
    if not isinstance(after, int):
        return after
    if record.is_evicted or record.head == NOWHERE or not 0 <= after < record.head.offset:
        return _NO_PLACE
    return str(Position(record.head.epoch, after + 1, 0))


def unknown() -> HTTPException:
    """Returns the error for a run that does not exist, or belongs to somebody else."""
    return HTTPException(404, "There is no such run")


class Watch:
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
        """Watches a run for one more follower."""
        self._followers[run] += 1
        self._ids[run] = run_id
        spawn(self._end_lost, run, run_id)

    def discard(self, run: HistoryKey) -> None:
        """Watches a run for one follower less."""
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
