"""The checks of a soak see each fault that is put into a history without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soak_history import (
    REFUSED,
    Client,
    Connection,
    History,
    Loss,
    Published,
    Run,
    Seen,
    Trim,
    violations,
)

# It is given histories.
pytestmark = pytest.mark.once

A, B = "a" * 16, "b" * 16


def id_of(offset: int, epoch: str = A) -> str:
    return f"{epoch}-{offset}-{1_000 + offset if offset else 0}"


def event(offset: int, at: float | None = None, epoch: str = A) -> Seen:
    return Seen(float(offset) if at is None else at, "event", id_of(offset, epoch), offset)


def said(kind: str, offset: int, at: float, data: object = None, epoch: str = A) -> Seen:
    return Seen(at, kind, id_of(offset, epoch), data)


def gap(first: int, last: int, missed: int) -> Seen:
    data = {"reason": "trimmed", "missed": missed, "from": id_of(first), "to": id_of(last)}
    return said("gap", last, float(last), data)


def reset(reason: str, offset: int, at: float, epoch: str = A) -> Seen:
    return said("reset", offset, at, {"reason": reason}, epoch)


def history() -> History:
    """Ten events, each published at its number, of which one client sees all at two processes."""
    published = [Published("lobby", n, n - 0.1, float(n), id_of(n)) for n in range(1, 11)]
    first = Connection("one", None, 0.5, 200, [said("position", 0, 0.5)])
    first.seen += [event(n) for n in range(1, 6)]
    second = Connection("two", id_of(5), 5.5, 200, [event(n) for n in range(6, 11)])
    client = Client("reader", "lobby", [first, second], stays=True)
    return History(published, [client], stored={"lobby": [(id_of(n), n) for n in range(1, 11)]})


def run_history() -> History:
    """A run with five events, which one client follows at two processes."""
    first = Connection("one", None, 0.5, 200, [run_event(n) for n in range(1, 4)])
    end = Seen(6.0, "run-end", id_of(6), {"run": "run", "end": "done", "reason": None})
    second = Connection("two", id_of(3), 3.5, 200, [run_event(4), run_event(5), end])
    client = Client("follower", "run", [first, second], stays=True)
    return History(clients=[client], runs=[Run("run", "one", 0.1, 5)])


def run_event(offset: int) -> Seen:
    return event(offset)._replace(data=offset - 1)


def test_a_history_without_a_fault_has_none() -> None:
    assert violations(history()) == []
    assert violations(run_history()) == []


Change = Callable[[History], object]


def first_of(changed: History) -> Connection:
    return changed.clients[0].connections[0]


def second_of(changed: History) -> Connection:
    return changed.clients[0].connections[1]


def lose_one(changed: History) -> None:
    del second_of(changed).seen[2]


def lose_the_first_after_a_move(changed: History) -> None:
    del second_of(changed).seen[0]


def lose_the_first_after_the_headers(changed: History) -> None:
    first_of(changed).seen[:2] = [said("position", 1, 1.5)]


def lose_the_last(changed: History) -> None:
    del second_of(changed).seen[-1]


def repeat_one(changed: History) -> None:
    second_of(changed).seen.insert(1, event(6))


def repeat_everything(changed: History) -> None:
    second_of(changed).seen[:0] = [event(n) for n in range(1, 6)]


def swap_two(changed: History) -> None:
    seen = second_of(changed).seen
    seen[1], seen[2] = seen[2], seen[1]


def miscount(changed: History) -> None:
    changed.trims.append(Trim("lobby", A, 8))
    second_of(changed).seen[:3] = [gap(5, 8, missed=2)]


def gap_without_a_trim(changed: History) -> None:
    changed.trims.append(Trim("lobby", A, 7))
    second_of(changed).seen[:3] = [gap(5, 8, missed=3)]


def gap_from_elsewhere(changed: History) -> None:
    changed.trims.append(Trim("lobby", A, 8))
    second_of(changed).seen[:3] = [gap(4, 8, missed=4)]


def reset_though_nothing_is_lost(changed: History) -> None:
    second_of(changed).seen.insert(0, reset("ahead", 5, 5.5))


def reset_to_a_history_that_was_not_lost(changed: History) -> None:
    second_of(changed).seen[:] = [reset("epoch", 0, 5.5, B)]
    changed.published[-1] = changed.published[-1]._replace(outcome=id_of(1, B))


def reset_of_a_history_that_began_after_the_loss(changed: History) -> None:
    changed.losses.append(Loss(-9.0, -8.0))
    reset_to_a_history_that_was_not_lost(changed)


def another_history_without_a_reset(changed: History) -> None:
    changed.losses.append(Loss(5.1, 5.2))
    second_of(changed).seen[:] = [event(1, 6.0, B)]


def an_id_of_no_history(changed: History) -> None:
    first_of(changed).seen[0] = Seen(0.5, "position", "0-0-0")


def stored_twice(changed: History) -> None:
    changed.stored["lobby"].append((id_of(11), 10))


def stored_though_refused(changed: History) -> None:
    changed.published[3] = changed.published[3]._replace(outcome=REFUSED)


def two_events_at_one_place(changed: History) -> None:
    changed.stored["lobby"][4] = (f"{A}-5-77", 5)


def published_out_of_order(changed: History) -> None:
    third, fourth = changed.published[2:4]
    changed.published[2] = third._replace(number=fourth.number)
    changed.published[3] = fourth._replace(number=third.number)


def late_when_all_is_calm(changed: History) -> None:
    changed.calm_from = 7.0
    second_of(changed).seen[-1] = event(10, at=30.0)


def refused_to_come_back(changed: History) -> None:
    changed.clients[0].connections.insert(1, Connection("two", id_of(5), 5.2, 503))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lose_one, "lost: 1 between"),
        (lose_the_first_after_a_move, "lost: 1 between"),
        (lose_the_first_after_the_headers, "published after its headers"),
        (lose_the_last, "in the end"),
        (repeat_one, "repeated"),
        (repeat_everything, "repeated"),
        (swap_two, "repeated"),
        (miscount, "wrong missed: 2"),
        (gap_without_a_trim, "needless gap"),
        (gap_from_elsewhere, "a gap from"),
        (reset_though_nothing_is_lost, "needless reset: ahead"),
        (reset_to_a_history_that_was_not_lost, "was never lost"),
        (reset_of_a_history_that_began_after_the_loss, "was never lost"),
        (another_history_without_a_reset, "without a reset"),
        (an_id_of_no_history, "of no history"),
        (stored_twice, "stored twice"),
        (stored_though_refused, "was refused and is stored"),
        (two_events_at_one_place, "two events at"),
        (published_out_of_order, "out of order"),
        (late_when_all_is_calm, "late"),
        (refused_to_come_back, "answered 503"),
    ],
)
def test_a_fault_in_a_room_is_seen(change: Change, expected: str) -> None:
    changed = history()
    change(changed)
    found = violations(changed)
    assert any(expected in each for each in found), found


def whole_answer_again(changed: History) -> None:
    second_of(changed).seen[:0] = [reset("ahead", 0, 3.5), *[run_event(n) for n in range(1, 4)]]


def no_end(changed: History) -> None:
    second_of(changed).seen.pop()


def two_ends(changed: History) -> None:
    end = second_of(changed).seen[-1]
    second_of(changed).seen.append(end._replace(id=id_of(7)))


def lost_though_it_lives(changed: History) -> None:
    end = second_of(changed).seen[-1]
    second_of(changed).seen[-1] = end._replace(data={"run": "run", "end": "lost"})


def begins_in_the_middle(changed: History) -> None:
    del first_of(changed).seen[0]


def reset_of_a_follower_without_an_id(changed: History) -> None:
    changed.losses.append(Loss(-9.0, -8.0))
    first_of(changed).seen.insert(0, reset("epoch", 0, 0.6))


def not_found(changed: History) -> None:
    changed.clients[0].connections.append(Connection("two", id_of(6), 7.0, 404))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (whole_answer_again, "needless reset: ahead"),
        (no_end, "never told the end"),
        (two_ends, "after the end"),
        (lost_though_it_lives, "it ends as"),
        (begins_in_the_middle, "a run begins at"),
        (reset_of_a_follower_without_an_id, "it had no id"),
        (not_found, "answered 404"),
        (lose_one, "lost: "),
    ],
)
def test_a_fault_in_a_run_is_seen(change: Change, expected: str) -> None:
    changed = run_history()
    change(changed)
    found = violations(changed)
    assert any(expected in each for each in found), found


def test_a_reset_of_a_follower_without_an_id_that_may_have_missed_something_is_none() -> None:
    changed = run_history()
    changed.losses.append(Loss(0.55, 0.6))
    first_of(changed).seen.insert(0, reset("epoch", 0, 0.7))
    assert violations(changed) == []


def test_a_gap_where_something_was_trimmed_is_none() -> None:
    changed = history()
    changed.trims.append(Trim("lobby", A, 8))
    second_of(changed).seen[:3] = [gap(5, 8, missed=3)]
    assert violations(changed) == []


def test_a_reset_where_a_history_was_lost_is_none() -> None:
    changed = history()
    changed.losses.append(Loss(5.1, 5.2))
    changed.published[5:] = [Published("lobby", 6, 5.9, 6.0, id_of(1, B))]
    changed.stored = {}
    second_of(changed).seen[:] = [reset("epoch", 0, 5.5, B), event(1, 6.0, B)._replace(data=6)]
    assert violations(changed) == []


def test_a_reset_long_after_an_empty_history_was_lost_is_none() -> None:
    changed = history()
    changed.losses.append(Loss(0.6, 0.7))
    changed.published[:] = [Published("lobby", 1, 9.5, 9.6, id_of(1, B))]
    changed.stored = {}
    del first_of(changed).seen[1:]
    second = second_of(changed)
    second.after = id_of(0)
    second.seen[:] = [reset("epoch", 0, 9.0, B), event(1, 9.6, B)]
    assert violations(changed) == []


def test_a_run_whose_process_was_killed_may_be_lost() -> None:
    changed = run_history()
    changed.kills.append(("one", 3.0))
    lost_though_it_lives(changed)
    assert violations(changed) == []
