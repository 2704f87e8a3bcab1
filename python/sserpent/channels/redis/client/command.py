"""The commands that are sent to a Redis server, and which of them may not be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

from redis.exceptions import ResponseError

from ...history.broker import BrokerUnavailable, PublishUncertain, Refused

#: How many events, or keys, go in one call at most: Redis does nothing else meanwhile.
MOST = 100
# How large each event is at most.
_MOST_BYTES = 8_192


class Command:
    """One command. A subclass says what may not be repeated.

    Args:
        name: Of the stream that it is about.

    Attributes:
        future: For the answer.
        deadline: When to give up, by the event loop's clock.
        sent_at: When it was sent on this connection.
        unsure_since: When it was first sent on a connection that was lost with the answer, if ever.
    """

    __slots__ = ("_args", "deadline", "future", "name", "sent_at", "unsure_since")

    def __init__(self, name: bytes, args: tuple[Any, ...], deadline: float) -> None:
        self.name = name
        self._args = args
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self.sent_at = 0.0
        self.unsure_since: float | None = None

    @property
    def words(self) -> tuple[Any, ...]:
        """The first two words of the command."""
        return self._args[:2]

    @property
    def parts(self) -> Sequence[Command]:
        """The commands that it is: itself, or those that it joins."""
        return (self,)

    @property
    def joins(self) -> tuple[Any, ...] | None:
        """A key: commands that have the same one may be sent in one call. None if this one is sent
        by itself."""
        return None

    def join(self, commands: Sequence[Any]) -> Command:
        """Returns one call for commands that have the same `joins` as this one, which is the first
        of them."""
        raise NotImplementedError

    def apart(self) -> Sequence[Command]:
        """Returns what to send in its place where it is refused, if that may be the fault of one of
        its parts alone."""
        return ()

    def args(self, now: float, valid: float, skew: float) -> tuple[Any, ...]:
        """Returns the command as it is sent now.

        Args:
            now: The time.
            valid: For how many seconds from now it is to be carried out.
            skew: What to add to a time to have it by the server's clock.
        """
        return self._args

    def lose(self) -> None:
        """Says that the connection was lost with the answer."""

    def give_up(self, reason: str) -> None:
        """Fails, because there is no answer."""
        self.fail(BrokerUnavailable(reason))

    def refuse(self, reason: str) -> None:
        """Fails, because Redis refuses."""
        self.fail(Refused(reason))

    def fail(self, error: Exception) -> None:
        """Raises an error in the caller that waits for the answer, unless the answer has come."""
        if not self.future.done():
            self.future.set_exception(error)

    def answer(self, answer: Any) -> str:
        """Takes the answer, and returns what was refused all the same; "" if nothing was."""
        if not self.future.done():
            self.future.set_result(answer)
        return ""

    def understand(self, error: Exception) -> Exception:
        """Returns why it is refused."""
        return error


class Ephemeral(Command):
    """Tells who is subscribed, once or not at all."""

    __slots__ = ()

    def lose(self) -> None:
        self.fail(PublishUncertain("Whether the ephemeral event was published is not known"))

    def answer(self, answer: Any) -> str:
        return super().answer(b"")


class Timely(Command):
    """A script that is carried out in time or not at all: not when nobody waits for it any more.

    Args:
        args: Its arguments, but for the last: until when it is valid.
    """

    __slots__ = ()

    def args(self, now: float, valid: float, skew: float) -> tuple[Any, ...]:
        return (*self._args, b"%d" % ((now + valid + skew) * 1000))

    def lose(self) -> None:
        if self.unsure_since is None:
            self.unsure_since = self.sent_at


class Publish(Timely):
    """The script that publishes, which is carried out once or not at all.

    Args:
        before, after: The arguments around those of a time: until when it is valid, and since when
            it may have been carried out already.
        joined: The hash of the script that publishes it with others, if there may be others.
    """

    __slots__ = ("_after", "_joined")

    def __init__(
        self,
        name: bytes,
        before: tuple[Any, ...],
        after: tuple[Any, ...],
        deadline: float,
        joined: bytes | None = None,
    ) -> None:
        super().__init__(name, before, deadline)
        self._after = after
        self._joined = joined

    @property
    def joins(self) -> tuple[Any, ...] | None:
        if self._joined is None or self.unsure_since is not None:
            return None
        *limits, _, body = self._after
        return (self.name, self._joined, *limits) if len(body) <= _MOST_BYTES else None

    def join(self, commands: Sequence[Publish]) -> Command:
        return JoinedPublishes(commands)

    def args(self, now: float, valid: float, skew: float) -> tuple[Any, ...]:
        since = self.unsure_since
        elapsed = b"" if since is None else b"%d" % ((now - since) * 1000 + 1)
        return (*super().args(now, valid, skew), elapsed, *self._after)

    def answer(self, answer: bytes) -> str:
        event_id, _, trouble = answer.partition(b" ")
        super().answer(event_id)
        return trouble.decode(errors="replace")

    def understand(self, error: Exception) -> Exception:
        absent, _, reason = str(error).partition("ABSENT ")
        if absent or not reason:
            return error
        self.unsure_since = None  # it was looked for
        return ResponseError(reason)

    def give_up(self, reason: str) -> None:
        if self.unsure_since is None:
            super().give_up(reason)
        else:
            self._is_uncertain(reason)

    def refuse(self, reason: str) -> None:
        if self.unsure_since is None:
            super().refuse(reason)
        else:
            self._is_uncertain(reason)

    def _is_uncertain(self, reason: str) -> None:
        self.fail(PublishUncertain(f"Whether the event was published is not known. {reason}"))


class Question(Command):
    """A script that answers for a key, and for others in the same call. It may be repeated.

    Args:
        script: Its hash.
        about: Its arguments about the key.
        is_alone: Whether it is not to be asked about others in the same call.
    """

    __slots__ = ("_is_alone",)

    def __init__(
        self,
        name: bytes,
        script: bytes,
        about: tuple[Any, ...],
        deadline: float,
        is_alone: bool = False,
    ) -> None:
        super().__init__(name, ("EVALSHA", script, 1, name, *about), deadline)
        self._is_alone = is_alone

    @property
    def joins(self) -> tuple[Any, ...] | None:
        return None if self._is_alone else self.words

    def join(self, commands: Sequence[Question]) -> Command:
        return JoinedQuestions(commands)

    def answer(self, answer: list[Any]) -> str:
        return super().answer(answer[0])


Part = TypeVar("Part", bound=Command)


class Joined(Command, Generic[Part]):
    """Several commands in one call.

    Args:
        parts: Two or more that have the same `joins`.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self.name = parts[0].name
        self._args = parts[0]._args

    @property
    def parts(self) -> Sequence[Part]:
        return self._parts


class JoinedQuestions(Joined[Question]):
    """Questions about several keys. If Redis refuses to answer, each is asked by itself: one of the
    keys may be of another type."""

    __slots__ = ()

    def args(self, now: float, valid: float, skew: float) -> tuple[Any, ...]:
        names = [part.name for part in self._parts]
        about = [each for part in self._parts for each in part._args[4:]]
        return (*self.words, len(names), *names, *about)

    def answer(self, answer: list[Any]) -> str:
        for part, each in zip(self._parts, answer, strict=True):
            part.answer([each])
        return ""

    def apart(self) -> Sequence[Command]:
        for part in self._parts:
            part._is_alone = True
        return self._parts


class JoinedPublishes(Joined[Publish]):
    """Several publishes to one history, which takes Redis a third of the time. They are stored next
    to each other, or none is; if the answer is lost, each is repeated by itself."""

    __slots__ = ()

    @property
    def words(self) -> tuple[Any, ...]:
        return self._args[0], self._parts[0]._joined

    def args(self, now: float, valid: float, skew: float) -> tuple[Any, ...]:
        args = [*self.words, *self._parts[0].args(now, valid, skew)[2:-2]]
        for part in self._parts:
            args += part._args[4], *part._after[-2:]
        return tuple(args)

    def answer(self, answer: bytes) -> str:
        event_id, _, trouble = answer.partition(b" ")
        epoch, first, _ = event_id.split(b"-")
        for offset, part in enumerate(self._parts, int(first)):
            Command.answer(part, b"%b-%d-%d" % (epoch, offset, part._args[4]))
        return trouble.decode(errors="replace")

    def refuse(self, reason: str) -> None:
        for part in self._parts:
            part.refuse(reason)


def joined(commands: Iterable[Command]) -> list[Command]:
    """Returns commands in their order, those that follow one another and can be one call as one."""
    found: list[Command] = []
    for joins, group in groupby(commands, key=lambda command: command.joins):
        same = list(group)
        if joins is None:
            found += same
            continue
        for start in range(0, len(same), MOST):
            together = same[start : start + MOST]
            first = together[0]
            found.append(first.join(together) if len(together) > 1 else first)
    return found
