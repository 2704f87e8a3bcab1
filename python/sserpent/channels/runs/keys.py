"""Which run of a key is active: of a chat, a thread, of whatever has at most one at a time.

A key is held by one start, under a name that nobody else has, for as long as that start's producer
renews it. It may live on another server than its run, so the two are never changed together. Their
order makes up for that: a start claims its key, then begins its run, then looks again at the key;
a start that takes over a key does so first, and then stops the run. One of the two sees the other.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Literal, NamedTuple

import anyio
from fastapi import HTTPException

from ..._runtime.loops import current_time
from ..history.broker import RunBroker, RunRecord
from ..history.position import HistoryKey
from .ends import REQUEST, end_item

_HOLDER = re.compile(r"([A-Za-z0-9._~-]{1,128}) [0-9a-f]{16}", re.ASCII)

IfActive = Literal["refuse", "join", "stop"]

# Seconds between two looks at a run that is about to begin, and until it is taken for one that
# never will. A broker that is slow to answer has its own timeout.
_PAUSE, _BEGINS_WITHIN = 0.02, 2.0


class Claim(NamedTuple):
    """A key that is held, and by whom."""

    key: HistoryKey
    holder: str


class RunKeys:
    """Knows the active runs.

    Args:
        broker: Keeps them.
        key_of: Returns where the run with an id is kept, or a key: of an owner.
    """

    def __init__(self, broker: RunBroker, key_of: Callable[[str, str | None], HistoryKey]) -> None:
        self._broker = broker
        self._key_of = key_of

    async def active(self, key: str, owner: str | None) -> str | None:
        """Returns the id of the active run of a key, if there is one.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        begins_by: float | None = None
        while True:
            holder = await self._broker.holder(self._key_of(key, owner))
            run_id = None if holder is None else _run_of(holder)
            if run_id is None:
                return None
            record = await self._broker.status(self._key_of(run_id, owner))
            if record is not None:
                return run_id if record.is_alive else None
            now = current_time()
            begins_by = begins_by or now + _BEGINS_WITHIN
            if now >= begins_by:
                return None
            await anyio.sleep(_PAUSE)

    def claim_of(self, key: str, owner: str | None, run_id: str) -> Claim:
        """Returns a claim to a key for a run that is about to be started."""
        return Claim(self._key_of(key, owner), f"{run_id} {secrets.token_hex(8)}")

    async def take(
        self, claim: Claim, owner: str | None, if_active: IfActive
    ) -> tuple[bool, str | None]:
        """Claims a key.

        Returns:
            Whether it is, and the id of the run that was stopped for it, if any; or of the one that
            is active.

        Raises:
            fastapi.HTTPException: 409, a run is active.
            BrokerUnavailable: the broker could not be reached; the key may be held all the same.
        """
        run_id = _run_of(claim.holder)
        instead_of: str | None = None
        while True:
            holder = await self._broker.claim(*claim, instead_of)
            if holder is None:
                return True, None
            instead_of = None
            active = _run_of(holder)
            record = None if active is None else await self._record(active, owner)
            if active is None or (record is not None and not record.is_alive):
                instead_of = holder  # it is free, or nobody's
            elif record is not None and (active == run_id or if_active == "join"):
                return False, active
            elif if_active == "stop" and active != run_id:
                if await self._take_over(claim, holder, active, owner):
                    return True, active
            elif if_active == "refuse" and active != run_id:
                raise HTTPException(409, "A run is active already")
            else:
                await anyio.sleep(_PAUSE)  # it is about to begin, or its claim about to be over

    async def is_superseded(self, claim: Claim) -> bool:
        """Renews a claim, and returns whether another has the key by now.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        return await self._broker.claim(*claim) is not None

    async def free(self, claim: Claim) -> None:
        """Gives a key back that a run has claimed."""
        await self._broker.free(*claim)

    async def _record(self, run_id: str, owner: str | None) -> RunRecord | None:
        """Returns what is known of a run. One whose producer has died ends here: it cannot come
        back to a key that another has."""
        run = self._key_of(run_id, owner)
        record = await self._broker.status(run)
        if record is None or record.is_alive or record.end_body is not None:
            return record
        await self._broker.end(run, None, end_item(run_id, "lost", None))
        return await self._broker.status(run)

    async def _take_over(self, claim: Claim, holder: str, active: str, owner: str | None) -> bool:
        """Stops the run that is active, and has its key, if that has not changed meanwhile."""
        run = self._key_of(active, owner)
        has_begun = await self._broker.stop(run, REQUEST)
        if await self._broker.claim(*claim, holder) is not None:
            return False
        if not has_begun:  # since then it may have
            await self._broker.stop(run, REQUEST)
        return True


def _run_of(holder: str) -> str | None:
    """Returns the id of the run that a holder is for; None if it is none of ours."""
    found = _HOLDER.fullmatch(holder)
    return found[1] if found else None
