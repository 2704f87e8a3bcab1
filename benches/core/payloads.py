"""What the contenders stream and encode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class Item(BaseModel):
    """The model of the streams: 92 bytes of JSON."""

    id: int
    name: str
    price: float
    tags: list[str]
    ok: bool


class Order(BaseModel):
    """A nested model, about 10 KB of JSON with a hundred items."""

    number: int
    customer: dict[str, str]
    items: list[Item]


class Change(BaseModel):
    id: int
    price: float


class Removal(BaseModel):
    id: int
    reason: str


ITEM = Item(
    id=1,
    name="Portal Gun that is long enough to be",
    price=999.99,
    tags=["a", "b"],
    ok=True,
)
ITEM_DICT = ITEM.model_dump()
# Events of three kinds.
NAMED = (
    ("created", ITEM),
    ("changed", Change(id=1, price=899.99)),
    ("removed", Removal(id=1, reason="sold out")),
)
ORDER = Order(
    number=17,
    customer={"name": "Chell", "address": "Aperture Science, Test Chamber 17"},
    items=[ITEM] * 100,
)
RECORD = {
    "id": UUID("0192d9f4-5c2e-7b3a-8f10-2b6c1e9a4d57"),
    "at": datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=timezone.utc),
    "name": "Chell",
    "ok": True,
}
RECORDS = [RECORD] * 100
# Items of protocols, one with a name and a number, one with neither.
RESPONSES_EVENT = {
    "type": "response.output_text.delta",
    "item_id": "msg_67c9fdcf37fc8190ba82116e33fb28c5",
    "output_index": 0,
    "content_index": 0,
    "delta": " token",
    "sequence_number": 12,
    "logprobs": [],
}
UI_PART = {"type": "text-delta", "id": "msg_68679a454370819ca74c8eb3d0437963", "delta": " token"}
PRICED = {
    "price": Decimal("999.99"),
    "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    "lasts": timedelta(seconds=90),
    "lines": [{"quantity": 2, "price": Decimal("1.5")}],
}


@dataclass
class Record:
    id: UUID
    at: datetime
    name: str
    ok: bool


DATACLASS = Record(**RECORD)

TOKEN = " token"
LOG = "\n".join(f"2026-01-02 03:04:05,678 INFO worker {n}: request served" for n in range(10))
UNICODE = "Grüße, 世界! \u2028 is no line break here. 🎂 " * 4
LINE_100_KB = "x" * 100_000
LOG_100_KB = "\n".join(
    ["2026-01-02 03:04:05,678 INFO worker 1: a request of 80 characters served"] * 1_350
)


def plain(value: object) -> Any:
    """What a client must decode, worked out without any contender."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    return str(value) if isinstance(value, UUID) else vars(value)
