"""What each kind of stream must hold, whoever streams it."""

from __future__ import annotations

import json

import sse_parser
from benches.core.payloads import ITEM_DICT, NAMED, RECORD, TOKEN, plain


def check_stream(kind: str, stream: bytes, count: int) -> None:
    """Raises if the stream is not what a client of this kind of stream must see."""
    parsed = sse_parser.parse(stream)
    assert not parsed.is_cut
    assert len(parsed.events) == count, f"{len(parsed.events)} events instead of {count}"
    if kind == "named":
        kinds = [(name, value.model_dump()) for name, value in NAMED]
        for number, event in enumerate(parsed.events):
            assert (event.type, json.loads(event.data)) == kinds[number % len(kinds)]
        return
    wanted = TOKEN if kind == "tokens" else plain(RECORD if kind == "records" else ITEM_DICT)
    named = ("item", "7") if kind == "events" else ("message", "")
    for event in parsed.events:
        assert (event.data if kind == "tokens" else json.loads(event.data)) == wanted
        assert (event.type, event.last_event_id) == named
