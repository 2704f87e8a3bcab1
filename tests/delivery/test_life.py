"""The table of a stream's life, walked: each state with each event, and each short way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import product
from typing import Any, NamedTuple

import pytest

from sserpent._delivery import on_asyncio, on_trio
from sserpent._delivery.deadlines import LAST_SEND, Due
from sserpent._delivery.life import ON_EVENT, Action, Alive, Ending, Event, Life, after
from sserpent._delivery.progress import Progress

# It asks nothing of the core.
pytestmark = pytest.mark.once

STATES = [*Alive, *Ending]
# The headers and the keep-alive change nothing in a life.
EVENTS = [*Event, *(due for due in Due if due not in (Due.OPEN, Due.PING, Due.LOOK))]
PAIRS = list(product(STATES, EVENTS))

# The reasons that an event may be. It is that of a stream that is alive, and of no other.
REASONS = {
    Event.GENERATOR_CUT: {Ending.FAILED},
    Event.GENERATOR_FAILED: {Ending.FAILED},
    Event.FAILURE_TOLD: {Ending.FAILED},
    Event.CLOSING_FAILED: {Ending.FAILED},
    Event.CUT_OFF: {Ending.FAILED},
    Event.ITEM_REFUSED: {Ending.FAILED},
    Event.CLIENT_GONE: {Ending.CLIENT_LEFT},
    Event.CLIENT_GONE_AT_END: {Ending.CLIENT_LEFT},
    Event.RECEIVE_FAILED: {Ending.FAILED},
    Event.SENT: {Ending.COMPLETE},
    Event.SEND_FAILED: {Ending.FAILED},
    Event.REQUEST_CANCELLED: {Ending.CANCELLED},
    Due.STALLED: {Ending.STALLED},
    Due.MAX_DURATION: {Ending.MAX_DURATION},
    Due.GRACE_OVER: {Ending.SHUTDOWN},
    Due.CLEANUP_OVER: {Ending.SHUTDOWN, Ending.CLIENT_LEFT},
}
OF_GENERATOR = (
    Event.GENERATOR_ENDED,
    Event.GENERATOR_CUT,
    Event.GENERATOR_FAILED,
    Event.FAILURE_TOLD,
    Event.CLOSING_FAILED,
    Event.CUT_OFF,
)


class Times(NamedTuple):
    ping_interval: float | None = None
    open_delay: float | None = None
    send_timeout: float | None = None
    max_duration: float | None = None
    expires_at: datetime | None = None
    cleanup_timeout: float = 30.0
    shutdown_grace: float = 3.0


def every_pair(check: Callable[[Any, Any], None]) -> Callable[[], None]:
    """Makes a test of what holds for a state and an event."""

    def test() -> None:
        for state, event in PAIRS:
            check(state, event)

    return test


def test_the_table_has_every_pair_and_no_other() -> None:
    walked = [(state, event) for state, row in ON_EVENT.items() for event in row]
    assert sorted(map(str, walked)) == sorted(map(str, PAIRS))


@every_pair
def test_the_first_reason_counts(state: Any, event: Any) -> None:
    then, _ = ON_EVENT[state][event]
    if isinstance(state, Ending):
        assert then is state
    else:
        assert isinstance(then, Alive) or then in REASONS[event]


@every_pair
def test_a_life_goes_forward(state: Any, event: Any) -> None:
    then, _ = ON_EVENT[state][event]
    assert STATES.index(then) >= STATES.index(state)
    if state is Alive.FINISHING and then is not state:
        assert then is Alive.PARTING or isinstance(then, Ending)


@every_pair
def test_a_generator_that_runs_is_told_to_end_and_has_its_time(state: Any, event: Any) -> None:
    _, actions = ON_EVENT[state][event]
    by_itself = event in OF_GENERATOR
    if state is Alive.STREAMING and not by_itself and event is not Due.CLEANUP_OVER:
        assert {Action.STOP, Action.BOUND} <= set(actions)
        assert actions.index(Action.BOUND) < actions.index(Action.STOP)
    else:
        assert Action.STOP not in actions


@every_pair
def test_what_was_yielded_is_sent_unless_the_reason_says_otherwise(state: Any, event: Any) -> None:
    then, actions = ON_EVENT[state][event]
    gives_up = Action.GIVE_UP in actions
    if isinstance(state, Alive) and isinstance(then, Ending):
        assert gives_up == (not then.delivers or event is Event.SEND_FAILED)
    elif isinstance(state, Alive):
        assert not gives_up


@every_pair
def test_a_send_that_is_given_up_has_a_bound(state: Any, event: Any) -> None:
    """It may ignore its cancellation."""
    _, actions = ON_EVENT[state][event]
    if Action.GIVE_UP in actions and event not in (Event.SEND_FAILED, Due.CLEANUP_OVER):
        assert Action.BOUND in actions


@every_pair
def test_the_body_ends_as_a_whole_after_a_generators_own_end_alone(state: Any, event: Any) -> None:
    _, actions = ON_EVENT[state][event]
    if Action.FINISH in actions:
        told = Event.OPENED_TO_END, Event.GENERATOR_ENDED, Event.FAILURE_TOLD
        assert event in told or (state is Ending.MAX_DURATION and event is Event.GENERATOR_CUT)


@every_pair
def test_a_client_that_does_not_read_is_dropped(state: Any, event: Any) -> None:
    _, actions = ON_EVENT[state][event]
    assert (Action.DROP in actions) == (event in (Due.STALLED, Due.CLEANUP_OVER))
    assert (Action.DROP_UNREAD in actions) == (event is Event.REQUEST_CANCELLED)
    assert (Action.ABANDON in actions) == (event is Due.CLEANUP_OVER)


@every_pair
def test_an_error_is_raised_or_logged_or_another_is(state: Any, event: Any) -> None:
    life, error = Life(Times(), now=0), LookupError()
    life.state = state
    actions = life.process_event(event, 0, error)
    if event is Event.SEND_FAILED:
        assert (life.error is error) != (Action.LOG in actions)
    elif event is Event.GENERATOR_FAILED:
        assert life.error is error
    if life.state is Ending.FAILED and state is not Ending.FAILED:
        assert life.error is error


@pytest.mark.parametrize("engine", [on_asyncio, on_trio])
def test_both_event_loops_do_every_action(engine: Any) -> None:
    assert set(engine._DO) | {Action.LOG} == set(Action)
    assert {action for row in ON_EVENT.values() for _, each in row.values() for action in each} == (
        set(Action)
    )


# Ways of a few events


def ways(length: int) -> Iterator[tuple[Any, ...]]:
    for each in range(1, length + 1):
        yield from product(EVENTS, repeat=each)


def test_whatever_comes_a_stream_has_one_reason_and_a_bound() -> None:
    for way in ways(3):
        life, reasons = Life(Times(), now=0), []
        for now, event in enumerate(way):
            life.process_event(event, now, LookupError(event))
            reasons.append(life.ending)
        first = next((reason for reason in reasons if reason is not None), None)
        assert all(reason in (None, first) for reason in reasons), way
        told_to_end = first not in (None, Ending.FAILED, Ending.COMPLETE)
        if told_to_end and way[-1] is not Due.CLEANUP_OVER and Due.CLEANUP_OVER not in way:
            assert life.cleanup_until is not None, way


def test_whatever_comes_a_second_error_does_not_hide_the_first() -> None:
    for way in ways(3):
        life = Life(Times(), now=0)
        raised: list[BaseException] = []
        for event in way:
            error, before = LookupError(event), life.error
            life.process_event(event, 0, error)
            if life.error is not before:
                raised.append(error)
        seen, last = [], life.error
        while last is not None:
            seen.append(last)
            last = last.__cause__
        assert seen == raised[::-1], way


# Times


def test_the_cleanup_has_its_time_once() -> None:
    life = Life(Times(), now=0)
    life.process_event(Event.CLIENT_GONE, 5)
    assert life.cleanup_until == 35
    life.process_event(Due.GRACE_OVER, 7)
    assert life.cleanup_until == 35
    assert life.moment(False, False, None, 0).cleanup_until == 35
    life.process_event(Due.CLEANUP_OVER, 35)
    assert life.cleanup_until is None


def test_the_send_of_the_end_has_less_than_a_cleanup() -> None:
    life = Life(Times(), now=0)
    life.process_event(Event.OPENED_TO_END, 5)
    assert life.cleanup_until == 35
    life.process_event(Event.CLIENT_GONE_AT_END, 6)
    assert life.cleanup_until == 6 + LAST_SEND


def test_the_grace_of_a_shutdown() -> None:
    life = Life(Times(), now=0)
    assert life.begin_shutdown(5)
    assert life.grace_until == 8
    assert life.ending is None
    life.process_event(Due.GRACE_OVER, 8)
    assert life.grace_until is None
    assert life.ending is Ending.SHUTDOWN
    assert not Life(Times(shutdown_grace=0), now=0).begin_shutdown(5)


def test_a_stream_that_has_failed_sends_neither_headers_nor_a_keep_alive() -> None:
    for ending in Ending:
        life = Life(Times(), now=0)
        life.state = ending
        moment = life.moment(True, True, None, 0)
        assert moment.can_open == moment.can_ping == (ending is not Ending.FAILED)


def test_a_send_stalls_once() -> None:
    life = Life(Times(), now=0)
    progress = Progress(1)
    assert life.moment(False, False, progress, 0).progress is progress
    life.process_event(Due.STALLED, 3)
    assert life.moment(False, False, progress, 0).progress is None


# Errors


def test_the_error_of_a_cleanup_names_the_first() -> None:
    first, cause, last = ValueError(), KeyError(), LookupError()
    last.__cause__ = cause
    assert after(first, last) is last
    assert cause.__cause__ is first
    assert after(first, last) is last, "once is enough"
    assert cause.__cause__ is first
    assert first.__cause__ is None
    assert after(None, first) is first
    assert after(first, first) is first


def test_the_causes_of_an_error_may_be_a_circle() -> None:
    first, error, cause = ValueError(), LookupError(), KeyError()
    error.__cause__, cause.__cause__ = cause, error
    assert after(None, error) is error
    assert after(first, error) is error
    assert error.__cause__ is cause
    assert cause.__cause__ is first
    itself = LookupError()
    itself.__cause__ = itself
    assert after(None, itself) is itself
    assert after(first, itself) is itself
    assert itself.__cause__ is first
