"""A call that is refused keeps nothing: neither its arguments, nor its error, nor the memory of
either. Both backends, each way into the core."""

from __future__ import annotations

import contextvars
import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import fastapi.sse
import pytest

from sserpent._core import pure

TIMES = 400
# Of a cache, a dict that grows, the interpreter's own free lists.
MAX_KEPT = 100


def refused(call: Callable[[], object], times: int) -> None:
    """Makes the call and nothing else: PyO3 lets go of what it has put aside when the next function
    of the compiled core is called."""
    for _ in range(times):
        try:
            call()
        except Exception:  # noqa: PERF203
            pass
        else:
            pytest.fail("it was not refused")


class Unencodable:
    __slots__ = ()

    def model_dump_json(self) -> str:
        raise ValueError


async def failing() -> None:
    raise ValueError


def unchecked(**fields: Any) -> Any:
    return fastapi.sse.ServerSentEvent.model_construct(
        **{**dict.fromkeys(("data", "raw_data", "event", "id", "retry", "comment")), **fields}
    )


def refuse(value: object, **options: object) -> Any:
    raise ValueError


def calls(core: ModuleType) -> dict[str, Callable[[], object]]:
    event = core.ServerSentEvent
    subclass = type("Sub", (event,), {})
    unencodable, undeclared = event(data=Unencodable()), event(data=1, event="other")
    buffer, parser = core.Buffer(), core.EventStreamParser()
    small = core.EventStreamParser(8)
    schema = core.ItemSchema(refuse, {}, refuse, {})
    typed = core.Buffer(schema)
    declared = core.Buffer(core.DeclaredEvents({"a": schema}, {}, refuse))
    line_break, unencodable_of_fastapi = unchecked(event="a\n"), unchecked(data=Unencodable())
    context, message = contextvars.copy_context(), core.MessageEvent("no JSON")

    def step_failing() -> None:
        core.step(failing(), None)

    def step_failing_as() -> None:
        core.step_as(None, {}, object(), context, failing(), None)

    return {
        "event": lambda: event(event="a\nb"),
        "id": lambda: event(id="\0"),
        "raw_data": lambda: event(raw_data=object()),
        "comment": lambda: event(comment="\ud800"),
        "retry": lambda: event(retry=-1),
        "what comes after a long retry": lambda: event(retry=2**70, comment=1),
        "what comes after long texts": lambda: event(data=[], raw_data="a" * 100, id="\n"),
        "data and raw_data": lambda: event(data=1, raw_data="a"),
        "a positional argument": lambda: event("a"),
        "an unknown argument": lambda: event(name="a"),
        "a name that is not interned": lambda: event(**{"".join(["ev", "ent"]): "\n"}),
        "a subclass": lambda: subclass(event="\n"),
        "an unknown argument of a subclass": lambda: subclass(name="a"),
        "encode": unencodable.encode,
        "hash": event(data=[]).__hash__,
        "format_sse_event": lambda: core.format_sse_event(data_str="a" * 100, event="\n"),
        "format_sse_event, after a long retry": lambda: core.format_sse_event(
            retry=2**70, comment=1
        ),
        "a pushed event": lambda: buffer.push(unencodable),
        "a pushed event of FastAPI's": lambda: buffer.push(line_break),
        "the data of an event of FastAPI's": lambda: buffer.push(unencodable_of_fastapi),
        "a pushed value": lambda: buffer.push(10**5_000),
        "a pushed value with a declared type": lambda: typed.push(1),
        "the data of a declared event": lambda: declared.push(undeclared),
        "a value where events are declared": lambda: declared.push(1),
        "Buffer": lambda: core.Buffer(nothing=1),
        "ItemSchema": lambda: core.ItemSchema(refuse),
        "MessageEvent": lambda: core.MessageEvent("a" * 100, type=object()),
        "json": message.json,
        "decode": lambda: message.decode(int),
        "EventStreamParser": lambda: core.EventStreamParser(-1),
        "feed": lambda: parser.feed("no bytes"),
        "feed of too much": lambda: small.feed(b"data: " + b"a" * 100),
        "Pump": lambda: core.Pump(1, buffer, None, None),
        "Meter": core.Meter(None, refuse).take,
        "BaseSender": lambda: core.BaseSender(None, None, 1, None, None),
        "step": step_failing,
        "step_as": step_failing_as,
    }


@pytest.mark.parametrize("case", list(calls(pure)))
def test_a_refused_call_keeps_nothing(core: ModuleType, case: str) -> None:
    call = calls(core)[case]
    refused(call, 100)  # what is made once is made
    gc.collect()
    before = sys.getallocatedblocks()
    refused(call, TIMES)
    assert sys.getallocatedblocks() - before < MAX_KEPT
