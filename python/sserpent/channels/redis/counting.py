"""How many subscribers a history has in all processes: each that follows it is asked, and answers.

Nothing is stored, so a process that is killed is counted no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

# The beginning of a question on pub/sub. An event has its length there.
_QUESTION = b"count "
# Seconds to wait for the answers.
_PATIENCE = 1.0


def is_question(message: bytes) -> bool:
    """Returns whether a message asks for the number of subscribers."""
    return message.startswith(_QUESTION)


def answered(message: bytes, who: str, subscribers: int) -> tuple[bytes, bytes]:
    """Returns where an answer is to be published, and the answer.

    Args:
        who: Answers: a question that is repeated is answered again.

    Raises:
        ValueError: it is not one of ours.
    """
    number, inbox = message[len(_QUESTION) :].split(b" ", 1)
    return inbox, b"%b %b %d" % (number, who.encode(), subscribers)


class Inbox:
    """Where the answers come for the questions of one session.

    Attributes:
        name: On pub/sub.
        is_open: Whether what is published to it is heard.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.is_open = asyncio.Event()
        self._numbers = count()
        self._answers: dict[int, _Answers] = {}

    async def ask(self, send: Callable[..., Awaitable[Any]], command: str, name: bytes) -> int:
        """Returns how many subscribers there are in the processes that answer in time.

        Args:
            send: Sends a command, and returns the answer.
            command: The one that publishes.
            name: Of the history, on pub/sub.

        Raises:
            BrokerUnavailable: the question could not be published.
        """
        number = next(self._numbers)
        answers = self._answers[number] = _Answers()
        try:
            question = b"%b%d %b" % (_QUESTION, number, self.name)
            answers.expected = await send(command, name, question)
            answers.check()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answers.complete.wait(), _PATIENCE)
        finally:
            del self._answers[number]
        return sum(answers.counts.values())

    # Called by the subscription

    def on_subscribed(self) -> None:
        self.is_open.set()

    def on_lost(self) -> None:
        self.is_open.clear()

    def on_message(self, message: bytes) -> bool:
        try:
            number, who, subscribers = message.split(b" ")
            answers, count = self._answers.get(int(number)), int(subscribers)
        except ValueError:
            return False  # it is not one of ours
        if answers is not None:
            answers.counts[who] = count
            answers.check()
        return False


class _Answers:
    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}
        self.expected: int | None = None
        self.complete = asyncio.Event()

    def check(self) -> None:
        if self.expected is not None and len(self.counts) >= self.expected:
            self.complete.set()
