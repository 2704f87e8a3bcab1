"""How many streams there are in all processes, under limits that are shared.

Each process says how many it has, for as long as it renews that. What a process had that was killed
is free when its lease is over.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..._runtime.log import SayOnce
from ..history.broker import Refused
from ..history.position import HistoryKey, new_epoch
from .client.script import Script

#: Seconds between two renewals of what a process has, and until what is not renewed is free.
RENEWAL, LEASE = 5.0, 15.0

# For how many seconds the end of a session may wait until its places are given back.
_LEAVE_TIMEOUT = 1.0

#: Notes how many streams a process has under a limit, and returns 1, or 0 if there is no place.
SLOTS = Script("""
local key, process, count, most, lease = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local call, match = redis.call, string.match
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local others, all = 0, call('HGETALL', key)
for i = 1, #all, 2 do
  local its_count, its_end = match(all[i + 1], '^(%d+) (%d+)$')
  if not its_end or tonumber(its_end) < now then
    call('HDEL', key, all[i])
  elseif all[i] ~= process then
    others = others + its_count
  end
end
if most ~= '' and others + count > tonumber(most) then
  return 0
end
if count == '0' then
  call('HDEL', key, process)
else
  call('HSET', key, process, count .. ' ' .. string.format('%d', now + lease))
  call('PEXPIRE', key, lease)
end
return 1
""")

Send = Callable[..., "asyncio.Future[Any]"]


class SharedSlots:
    """The places that this process has under limits for all processes.

    Args:
        send: Sends a command about a key, and returns a future for the answer.
        name_of: Returns the name of a key in Redis.
    """

    def __init__(self, send: Send, name_of: Callable[[HistoryKey], bytes]) -> None:
        self._send = send
        self._name_of = name_of
        self._process = new_epoch()
        self._taken: Counter[Any] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._warning = SayOnce(
            "Streams under '%s' cannot be counted, so clients have to wait: %s", "shared_limits"
        )

    async def take(self, limits: Mapping[Any, int]) -> bool:
        """Takes a place under each limit, or none at all, and returns whether there were places.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        taken: list[Any] = []
        is_free = False
        try:
            for limit, most in limits.items():
                self._taken[limit] += 1
                taken.append(limit)
                if not await self._note(limit, most):
                    return False
            is_free = True
        finally:
            if not is_free:
                self.give_back(taken)
        self._renew_later()
        return True

    def give_back(self, limits: Iterable[Any]) -> None:
        """Gives back what was taken."""
        for limit in limits:
            if limit not in self._taken:
                continue  # `leave` was faster
            self._taken[limit] -= 1
            self._note(limit)
            if not self._taken[limit]:
                del self._taken[limit]

    async def leave(self) -> None:
        """Gives everything back, and waits until that is noted, but not long."""
        self.close()
        limits = list(self._taken)
        self._taken.clear()
        notes = [self._note(limit) for limit in limits]
        if notes:
            _, late = await asyncio.wait(notes, timeout=_LEAVE_TIMEOUT)
            for note in late:
                note.cancel()

    def close(self) -> None:
        """Stops renewing what this process has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self, limit: Any, most: int | None = None) -> asyncio.Future[Any]:
        name = self._name_of(_key_of(limit))
        count, limited = self._taken[limit], b"" if most is None else most
        note = self._send(
            *(name, "EVALSHA", SLOTS.sha, 1, name),
            *(self._process, count, limited, round(LEASE * 1000)),
        )
        note.add_done_callback(self._look)
        return note

    def _look(self, note: asyncio.Future[Any]) -> None:
        """Logs why a note is refused. One that is lost is made good by the next renewal."""
        error = None if note.cancelled() else note.exception()
        if isinstance(error, Refused):
            self._warning.warn(str(error))
        elif error is None and not note.cancelled():
            self._warning.forget()

    def _renew_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RENEWAL, self._renew)

    def _renew(self) -> None:
        self._timer = None
        for limit in list(self._taken):
            # What was given back while Redis was away is made good too.
            self._note(limit)
        if self._taken:
            self._renew_later()


def _key_of(limit: Any) -> HistoryKey:
    """Returns what a limit is kept under: names of users are not to be read in Redis."""
    digest = hashlib.sha256(repr(limit).encode()).hexdigest()[:32]
    return HistoryKey("", f"slots:{digest}")
