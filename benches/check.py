"""What each kind of stream must hold, whoever streams it."""

from __future__ import annotations

import json

from .decode import decode
from .payloads import ITEM_DICT, TOKEN


def check_stream(kind: str, stream: bytes, count: int) -> None:
    """Raises if the stream is not what a client of this kind of stream must see."""
    decoded = decode(stream)
    assert len(decoded) == count, f"{len(decoded)} events instead of {count}"
    for each in decoded:
        if kind == "tokens":
            assert each.data == TOKEN
        else:
            assert json.loads(each.data) == ITEM_DICT
        named = ("item", "7") if kind == "events" else ("message", "")
        assert (each.event, each.id) == named
