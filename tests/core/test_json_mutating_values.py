"""JSON of values that are made to do harm: an error or a consistent state, never a crash, never
part of an event. Both backends.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
import sys
import threading
import tracemalloc
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any

import fastapi.encoders
import pytest
from pydantic import BaseModel, model_serializer
from pydantic_core import PydanticSerializationError

from json_kinds import Color, Line, OwnUUID, Plainly, Point, nested, once
from sserpent._core.conversion import json_as_fastapi


def sent(core: ModuleType, item: Any) -> bytes:
    """What one push adds to a buffer that holds an event already."""
    buffer = core.Buffer()
    buffer.push(core.ServerSentEvent(comment="before"))
    before = b": before\n\n"
    try:
        buffer.push(item)
    except BaseException:
        assert buffer.take() == before
        raise
    taken: bytes = buffer.take()
    return taken.removeprefix(before)


class Acts(OwnUUID):
    """Does something when it is encoded."""

    __slots__ = ("act",)

    def __new__(cls, act: Callable[[], object]) -> Acts:
        self = object.__new__(cls)
        object.__setattr__(self, "act", act)
        return self

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(int=7)

    def __str__(self) -> str:
        self.act()  # type: ignore[attr-defined]
        return "acts"

    def __deepcopy__(self, memo: Any) -> Acts:
        return self


@dataclasses.dataclass
class Attributes:
    first: Any
    second: Any = 2


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "defaultdict": lambda value: defaultdict(list, a=value),
    "deque": lambda value: deque([value]),
    "dataclass": Attributes,
    "generator": lambda value: once(value),
    "enum key": lambda value: {Color.RED: value},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_200_000_levels(core: ModuleType, container: str) -> None:
    deep = nested(200_000, CONTAINERS[container])
    with pytest.raises(RecursionError):
        sent(core, deep)
    # Freed level by level: CPython's own way is not safe for each of these.
    while deep is not None:
        deep = undone(deep)


def undone(value: Any) -> Any:
    """The value in a container of one."""
    if isinstance(value, Attributes):
        inner, value.first = value.first, None
        return inner
    if isinstance(value, dict):
        return value.popitem()[1] if value else None
    if isinstance(value, (list, deque)):
        return value.pop() if value else None
    if isinstance(value, tuple):
        return value[0]
    return next(value, None) if hasattr(value, "__next__") else None


@pytest.mark.parametrize("place", [lambda model: model, lambda model: {"a": [model]}])
@pytest.mark.parametrize(
    "values",
    [
        lambda: {"values": iter([1])},
        lambda: {"more": {"a": once(1)}},
        lambda: {"inner": Plainly.model_construct(values=[(once(1),)])},
        lambda: {"inner": Point(1, [{"a": map(int, "1")}])},
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_what_can_be_read_once_is_sent_whole_or_refused(
    core: ModuleType, place: Any, values: Any
) -> None:
    """pydantic refuses the lone surrogate when it may have read the iterator already."""
    model = Plainly.model_construct(**values(), text="\ud800")
    with suppress(PydanticSerializationError):
        assert b"1" in sent(core, place(model))


def test_values_that_contain_themselves(core: ModuleType) -> None:
    entries: dict[str, Any] = {}
    entries["a"] = [(entries,), entries]
    point = Point(1)
    point.y = {"point": point}
    values: list[Any] = []
    values += [values] * 1000
    for each in (entries, point, values, [point, entries]):
        with pytest.raises(RecursionError):
            sent(core, each)


@pytest.mark.parametrize("also_keys", [False, True])
def test_a_dict_that_grows_or_shrinks_while_it_is_written(
    core: ModuleType, also_keys: bool
) -> None:
    for change in (lambda it: it.update(further=1), dict.clear, dict.popitem):
        entries: dict[Any, Any] = {"b": [1], "c": 2}
        if also_keys:
            entries[1] = 3
        entries["a"] = Acts(partial(change, entries))
        with pytest.raises(RuntimeError, match="dictionary changed size"):
            sent(core, entries)


def test_a_dict_whose_keys_change_while_it_is_written(core: ModuleType) -> None:
    def replace() -> None:
        entries.pop(next(iter(entries)))
        entries[f"further {uuid.uuid4()}"] = Acts(replace)

    entries: dict[str, Any] = {"a": Acts(replace), "b": Acts(replace), "c": Acts(replace)}
    for _ in range(50):
        with suppress(RuntimeError):
            sent(core, entries)


def test_a_list_that_shrinks_while_it_is_written(core: ModuleType) -> None:
    values: list[Any] = []
    values += [1, Acts(values.clear), [2], 3]
    assert sent(core, values) == b'data: [1,"acts"]\n\n'


def test_a_list_that_grows_while_it_is_written(core: ModuleType) -> None:
    values: list[Any] = []
    values += [1, Acts(lambda: values.append(4)), 3]
    assert sent(core, values) in (b'data: [1,"acts",3]\n\n', b'data: [1,"acts",3,4]\n\n')


@pytest.mark.parametrize("kind", [set, deque])
def test_what_iterates_and_changes_is_refused(core: ModuleType, kind: Any) -> None:
    values = kind()
    add = values.add if kind is set else values.append
    for value in (Acts(lambda: add(4)), Acts(lambda: add(5))):
        add(value)
    with pytest.raises(RuntimeError, match=r"changed size|mutated during iteration"):
        sent(core, values)


def test_a_dataclass_that_loses_a_field_while_it_is_written(core: ModuleType) -> None:
    class Loses(Decimal):
        def __deepcopy__(self, memo: Any) -> Any:
            vars(line).pop("others", None)
            return self

    line = Line(start=Loses(1), others=[])  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="others"):
        sent(core, line)


def test_containers_that_another_thread_changes(core: ModuleType) -> None:
    entries: dict[Any, Any] = {}
    values: list[Any] = []
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            entries[number % 50] = entries[f"{number % 70}"] = [number]
            values.append({"a": number})
            if number % 90 == 0:
                entries.clear()
                values.clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            # The leaf that is encoded in Python lets the other thread in.
            pause = Acts(lambda: None)
            entries.setdefault("leaf", pause)
            try:
                line = sent(core, [entries, pause, values, pause])
            except RuntimeError:  # the dict has changed
                pass
            else:
                assert line.startswith(b"data: [{")
                assert line.endswith(b'"acts"]\n\n')
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_a_leaf_that_comes_back_into_the_buffer(core: ModuleType) -> None:
    buffer = core.Buffer()
    buffer.push({"outer": Acts(lambda: buffer.push(["inner"]))})
    assert buffer.take() == b'data: ["inner"]\n\ndata: {"outer":"acts"}\n\n'


def test_a_leaf_that_fails_leaves_nothing_behind(core: ModuleType) -> None:
    def fail() -> None:
        raise LookupError("no text")

    with pytest.raises(LookupError, match="no text"):
        sent(core, {"a": [1, 2, {"b": Acts(fail)}]})


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_to_end_the_program_passes_through(core: ModuleType, error: Any) -> None:
    def end() -> None:
        raise error

    for value in ([Acts(end)], Attributes([Acts(end)]), {"a": once(Acts(end))}):
        with pytest.raises(error):
            sent(core, value)


def test_10_million_digits(core: ModuleType) -> None:
    huge = 1 << 33_219_281
    for value in (huge, [-huge], {"a": {"b": huge}}, {huge: 1}, Attributes(huge)):
        with pytest.raises(ValueError, match="Exceeds the limit"):
            sent(core, value)


def test_numbers_of_many_digits_that_are_accepted(core: ModuleType) -> None:
    for digits in (639, 640, 641, 4300):
        nines = "9" * digits
        expected = f"data: [{nines},-{nines}]\n\n".encode()
        assert sent(core, [int(nines), -int(nines)]) == expected
        assert sent(core, [Decimal(nines), Decimal("-" + nines)]) == expected


def test_an_encoder_that_the_application_adds_or_changes_is_used(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ObjectId:
        pass

    moment = datetime.datetime(2024, 1, 2)
    value = [moment, uuid.UUID(int=1), {"a": ObjectId()}, Attributes(moment)]
    with pytest.raises(ValueError, match="ObjectId"):
        sent(core, [moment, {"a": type("ObjectId", (), {"__slots__": ()})()}])
    encoders = fastapi.encoders.ENCODERS_BY_TYPE
    monkeypatch.setitem(encoders, ObjectId, lambda value: "object id")
    monkeypatch.setitem(encoders, datetime.datetime, lambda value: value.year)
    monkeypatch.setitem(encoders, uuid.UUID, lambda value: value.int)
    assert sent(core, value) == b'data: [2024,1,{"a":"object id"},{"first":2024,"second":2}]\n\n'
    monkeypatch.undo()
    moment_text = b'"2024-01-02T00:00:00"'
    assert sent(core, [moment, Attributes(moment)]) == (
        b'data: [%b,{"first":%b,"second":2}]\n\n' % (moment_text, moment_text)
    )


def test_a_serializer_runs_once(core: ModuleType) -> None:
    calls: list[str] = []

    class Counts(BaseModel):
        answer: Any

        @model_serializer
        def serialize(self) -> Any:
            calls.append("called")
            return {"_sa": 1, "answer": self.answer}

    for answer in (float("nan"), "\ud800", 10**4300, object(), once(1), "NaN"):
        for item in (Counts(answer=answer), [Counts(answer=answer)]):
            calls.clear()
            try:
                sent(core, item)
            except Exception:
                pass
            assert calls == ["called"]


class Plain(BaseModel):
    """Nothing but its fields' types decides about its JSON."""

    text: str = ""
    numbers: dict[str, float] = {}
    count: int | None = None
    at: datetime.datetime | None = None
    parts: list[Plain] = []


class Constants(Plain, ser_json_inf_nan="constants"):
    pass


@pytest.mark.parametrize("kind", [Plain, Constants])
@pytest.mark.parametrize(
    "fields",
    [
        {"text": "_sa", "at": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)},
        {"numbers": {"_sa_state": 1.5, "_s": 2}},
        {"numbers": {"a": float("nan"), "b": float("-inf")}},
        {"text": "NaN", "numbers": {"Infinity": 1e300}},
        {"text": "\ud800\x00\n", "count": 10**700},
        {"text": "9" * 1_000},
        {"parts": [Plain(), Constants(numbers={"_sa": float("inf")})]},
    ],
    ids=repr,
)
def test_a_model_of_plain_fields_is_what_fastapi_makes_of_its_dump(
    core: ModuleType, kind: type[Plain], fields: dict[str, Any]
) -> None:
    item = kind.model_construct(**fields)
    for value in (item, [item], {"a": (item,)}):
        got = sent(core, value).decode().removeprefix("data: ")
        assert json.loads(got) == json.loads(json_as_fastapi(value))


def test_a_plain_model_with_a_huge_integer_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="digits"):
        sent(core, Plain(count=10**4_300))


def test_memory_is_bounded_by_the_result(core: ModuleType) -> None:
    """One list, a thousand times in a thousand lists, is a million parts in the JSON only."""
    shared = [["text" * 25] * 1000]
    pushed = [shared * 100]
    size = len(sent(core, pushed))
    assert size > 10_000_000
    tracemalloc.start()
    try:
        sent(core, pushed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The taken bytes alone, where the core's own memory is not traced.
    assert peak < 10 * size


def test_no_panic_is_printed() -> None:
    """What changes while it is written is refused without a word to stderr."""
    code = """
from typing import Any
from pydantic import BaseModel, model_serializer
from pydantic_core import PydanticSerializationError
import sserpent
from sserpent._core import Buffer

changed: dict[str, Any] = {}

class Changes(BaseModel):
    @model_serializer
    def change(self) -> int:
        changed[f"further {len(changed)}"] = 1
        return 1

changed["model"] = Changes()
for value in (changed, [changed], {"a": (changed,)}):
    try:
        Buffer().push(value)
    except RuntimeError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["dictionary changed size during iteration"] * 3
    assert ran.stderr == ""
