"""Values of every kind that FastAPI's encoder knows, and some that it refuses, by name.

Each is a function that makes the value, because some can be read only once.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import ipaddress
import json
import pathlib
import re
import threading
import types
import unittest.mock
import uuid
import warnings
import zoneinfo
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pydantic
import pydantic.dataclasses
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_serializer,
    model_serializer,
)
from pydantic_core import PydanticUndefined

NAN = float("nan")
INFINITY = float("inf")
ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
MOMENT = datetime.datetime(2024, 2, 29, 13, 5, 7, 123456)


class Color(enum.Enum):
    RED = "red"
    NUMBER = 2
    MOMENT = MOMENT
    PAIR = ("a", 1)


class Level(enum.IntEnum):
    LOW = 1


class Name(str, enum.Enum):
    ANN = "ann"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Text(str):
    __slots__ = ()


class Integer(int):
    pass


class Ratio(float):
    pass


class Item(BaseModel):
    name: str
    price: Decimal
    tags: set[str] = Field(default_factory=set)
    description: str | None = None


class Aliased(BaseModel):
    first_name: str = Field(serialization_alias="firstName")
    last_name: str = Field(alias="lastName")


class AliasedUnlessAsked(BaseModel):
    model_config = ConfigDict(serialize_by_alias=False)
    first_name: str = Field(serialization_alias="firstName")


class Everything(BaseModel):
    """A field for each type whose JSON form is a choice."""

    decimal: Decimal = Decimal("1.10")
    moment: datetime.datetime = MOMENT
    zoned: datetime.datetime = MOMENT.replace(tzinfo=ZONE)
    utc: datetime.datetime = MOMENT.replace(tzinfo=datetime.timezone.utc)
    date: datetime.date = datetime.date(2024, 2, 29)
    time: datetime.time = datetime.time(1, 2, 3)
    delta: datetime.timedelta = datetime.timedelta(days=1, seconds=2.5)
    id: uuid.UUID = uuid.UUID(int=7)
    path: pathlib.Path = pathlib.Path("/a/b")
    raw: bytes = b"bytes"
    color: Color = Color.RED
    level: Level = Level.LOW
    numbers: tuple[int, ...] = (1, 2)
    unique: frozenset[int] = frozenset({1})
    queue: collections.deque[int] = Field(default_factory=lambda: collections.deque([1]))
    address: ipaddress.IPv4Address = ipaddress.IPv4Address("127.0.0.1")
    url: pydantic.AnyUrl = pydantic.AnyUrl("https://example.org/é")
    secret: pydantic.SecretStr = pydantic.SecretStr("secret")
    pattern: re.Pattern[str] = re.compile("a+")
    by_number: dict[int, str] = Field(default_factory=lambda: {1: "one"})
    by_moment: dict[datetime.date, int] = Field(
        default_factory=lambda: {datetime.date(2024, 1, 1): 1}
    )


class Plainly(BaseModel):
    """Its JSON is pydantic's as it is, as long as its values are of the declared types."""

    values: list[int] = []
    more: dict[str, list[int]] = {}
    text: str = ""
    number: float = 1.0
    inner: Plainly | None = None


def unvalidated(**values: Any) -> Plainly:
    return Plainly.model_construct(**values)


class Loose(BaseModel):
    """Whatever is in it is serialized by its own type."""

    value: Any = None


# pydantic has this one since 2.8.
STRINGS: Any = "strings" if hasattr(pydantic, "FailFast") else "constants"


class LooseWithModes(BaseModel):
    model_config = ConfigDict(
        ser_json_bytes="base64", ser_json_timedelta="float", ser_json_inf_nan=STRINGS
    )
    value: Any = None
    delta: datetime.timedelta = datetime.timedelta(seconds=90)
    raw: bytes = b"\xff\x00"
    number: float = 1.0


class LooseHex(BaseModel):
    model_config = ConfigDict(ser_json_bytes="hex", ser_json_inf_nan="constants")
    value: Any = None
    raw: bytes = b"\xff\x00"
    number: float = 1.0


class LooseNull(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="null")
    value: Any = None
    number: float = 1.0


class Computed(BaseModel):
    width: int

    @computed_field
    @property
    def area(self) -> int:
        return self.width**2

    @computed_field(alias="halfOf")
    @property
    def half(self) -> Decimal:
        return Decimal(self.width) / 2


class Computing(BaseModel):
    @computed_field
    @property
    def broken(self) -> int:
        raise LookupError("not there")


class FieldSerializers(BaseModel):
    plain: int = 1
    moment: datetime.datetime = MOMENT
    mode: str = ""
    decimal: Decimal = Decimal("2.50")

    @field_serializer("moment")
    def serialize_moment(self, value: datetime.datetime) -> int:
        return value.year

    @field_serializer("mode")
    def serialize_mode(self, value: str, info: Any) -> str:
        return f"{info.mode} {info.by_alias} {info.exclude_none}"

    @field_serializer("decimal", when_used="json")
    def serialize_decimal(self, value: Decimal) -> Decimal:
        return value * 2


class WholeSerializer(BaseModel):
    value: Any

    @model_serializer
    def serialize(self) -> Any:
        return {"whole": self.value, "_sa_whole": 1}


class WrapSerializer(BaseModel):
    value: int

    @model_serializer(mode="wrap")
    def serialize(self, handler: Any) -> Any:
        return {**handler(self), "wrapped": True}


class FailingSerializer(BaseModel):
    value: int = 1

    @field_serializer("value")
    def serialize(self, value: int) -> int:
        raise OverflowError("no")


class OverriddenDump(BaseModel):
    value: int = 1

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        return {"dumped": super().model_dump(**kwargs), "mode": kwargs.get("mode")}


class OverriddenDumpJson(BaseModel):
    value: int = 1

    def model_dump_json(self, **kwargs: Any) -> str:
        return json.dumps({"json": self.value}, indent=2)


class OverriddenBoth(OverriddenDump):
    def model_dump_json(self, **kwargs: Any) -> str:
        return '"both"'


class DumpsNonsense(BaseModel):
    def model_dump_json(self, **kwargs: Any) -> Any:
        return b'"bytes"'


class Outer(BaseModel):
    items: list[Item]
    by_name: dict[str, Item]
    loose: Any = None


class Base(BaseModel):
    shared: int = 1


class Derived(Base):
    own: int = 2


class HoldsBase(BaseModel):
    model: Base
    duck: pydantic.SerializeAsAny[Base]


class Tree(BaseModel):
    children: list[Tree] = []


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class Hiding(BaseModel):
    shown: int = 1
    hidden: int = Field(default=2, exclude=True)
    _private: int = 3


class AlchemyAlias(BaseModel):
    state: int = Field(default=1, serialization_alias="_sa_state")
    name: str = "x"


class AlchemyInside(BaseModel):
    rows: dict[str, Any] = Field(default_factory=lambda: {"_sa_row": 1, "b": {"_sa": 2, "c": 3}})


class Marks(BaseModel):
    """Text that looks like what FastAPI cleans away."""

    text: str = 'NaN Infinity "_sa_x": -Infinity'


class WithGenerator(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    values: Any


class Opaque:
    __slots__ = ("hidden",)


class Plain:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Alchemy(Plain):
    """Looks like a mapped object."""


class Pairs:
    def __iter__(self) -> Iterator[tuple[str, int]]:
        yield from [("a", 1), ("_sa_b", 2)]


class Keyed:
    def keys(self) -> list[str]:
        return ["a"]

    def __getitem__(self, key: str) -> int:
        return 1


class AnswersEverything:
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: f'"{name}"'


class DumpsNone:
    model_dump_json = None


class DumpsItself:
    def __init__(self, json_text: Any) -> None:
        self._json_text = json_text

    def model_dump_json(self) -> Any:
        return self._json_text


class DumpsBadly:
    def model_dump_json(self) -> str:
        raise KeyError("gone")


class Failing:
    """Fails in its own way when looked at."""

    def __iter__(self) -> Any:
        raise LookupError("no pairs")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise BufferError("no attributes")


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


@dataclasses.dataclass
class Line:
    start: Point
    others: list[Point]


@dataclasses.dataclass
class Carries:
    model: Any


@dataclasses.dataclass(frozen=True)
class AlchemyData:
    _sa_state: int = 1
    name: str = "n"


@pydantic.dataclasses.dataclass
class Checked:
    decimal: Decimal
    alias: int = Field(default=1, serialization_alias="theAlias")


class Place(NamedTuple):
    x: int
    y: Decimal


# What FastAPI's encoder takes for one thing or another by the order of its checks.


@dataclasses.dataclass
class DictData(dict[str, Any]):
    field: Any = 1


@dataclasses.dataclass
class ListData(list[Any]):
    field: Any = 1


@dataclasses.dataclass
class Size:
    legs: int
    tail: Any


class Animal(Size, enum.Enum):
    CAT = 4, Decimal("1.5")
    BIRD = 2, ("a", 1)


@dataclasses.dataclass
class Slotted:
    __slots__ = ("at", "id")
    id: uuid.UUID
    at: datetime.datetime


@dataclasses.dataclass
class Whole:
    """What is no field, and a field that is no attribute."""

    shared: ClassVar[int] = 1
    start: dataclasses.InitVar[int] = 2
    own: int = 3
    hidden: Any = dataclasses.field(default=4, repr=False, compare=False)
    computed: Any = dataclasses.field(init=False)

    def __post_init__(self, start: int) -> None:
        self.late = start


@dataclasses.dataclass
class ItsClassLies:
    field: int = 1

    @property
    def __class__(self) -> Any:
        return Color


class Lies:
    """Says that it is of another class."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    @property
    def __class__(self) -> Any:
        return self._kind

    def __str__(self) -> str:
        return "lies"


class CannotBeCopied(list[Any]):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise LookupError("no copies")


class Copies:
    """Is something else when it is copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        return {"copied": MOMENT, "by": (n for n in range(2))}


class OwnMoment(datetime.datetime):
    def isoformat(self, *args: Any) -> str:
        return "own isoformat"


class OwnDate(datetime.date):
    def __str__(self) -> str:
        return "own str"


class OwnDelta(datetime.timedelta):
    def total_seconds(self) -> float:
        return NAN


class OwnUUID(uuid.UUID):
    def __str__(self) -> str:
        return "own str"


class OwnDecimal(Decimal):
    def __str__(self) -> str:
        return "own str"


class OwnBytes(bytes):
    def decode(self, *args: Any) -> Any:
        return ["own", INFINITY]


class OwnText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "own str"

    def startswith(self, *args: Any) -> bool:
        return "_sa" in self


class OwnInteger(int):
    def __repr__(self) -> str:
        return "own repr"

    __str__ = __repr__


class OwnFloat(float):
    def __repr__(self) -> str:
        return "own repr"


class OwnPath(pathlib.PurePosixPath):
    def __str__(self) -> str:
        return "own str"


class OwnItems(dict[Any, Any]):
    def items(self) -> Any:
        return [("own", 1), ("_sa", 2), *super().items(), ("not a key", 3)]


class OwnKeys(dict[Any, Any]):
    def keys(self) -> Any:
        return ["a"]


class OwnDictIteration(dict[Any, Any]):
    def __iter__(self) -> Any:
        return iter(["own"])

    def __len__(self) -> int:
        return 17


class OwnIteration(list[Any]):
    def __iter__(self) -> Any:
        return iter(["own", Decimal("1.5")])


class OwnPlace(NamedTuple("OwnPlace", [("x", int)])):
    def __iter__(self) -> Any:
        return iter(["own"])


class OwnValue(enum.Enum):
    ONE = 1

    @property
    def value(self) -> Any:
        return "own value"


class ValueIsAMember(enum.Enum):
    # mypy: a member may not be called so.
    locals()["value"] = 1
    OTHER = 2


class OddValues(enum.Enum):
    NOT_A_NUMBER = NAN
    NUMBERS = [NAN, {"a": INFINITY}]  # noqa: RUF012
    PAIR = (NAN, 1)
    TABLE = types.MappingProxyType({"a": 1})
    STATE = "_sa_state"
    HUGE = 10**4300
    TEXT = Text("a\nb")
    SELF_SAID = OwnInteger(3)


class ShownName(str, enum.Enum):
    ANN = "ann"

    def __str__(self) -> str:
        return "shown"


class Permission(enum.IntFlag):
    READ = 1
    WRITE = 2


class FailingZone(datetime.tzinfo):
    def utcoffset(self, moment: Any) -> Any:
        raise LookupError("no offset")


class ReadsOnce(BaseModel):
    """Its serializer reads what can be read once."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    source: Any

    @model_serializer
    def serialize(self) -> Any:
        return {"_sa": 1, "items": list(self.source), "late": Plain(a=1), 1: "\ud800"}


class ReadsOnceInConstants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    number: float = NAN
    source: Any = None


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic says that the field hides a method

    class FieldNamedLikeAMethod(BaseModel):
        model_config = ConfigDict(protected_namespaces=())
        model_dump: int = 1  # type: ignore[assignment]


def once(*values: Any) -> Iterator[Any]:
    yield from values


def data_containing_itself() -> Point:
    point = Point(1)
    point.y = [point]
    return point


def nested(depth: int, wrap: Callable[[Any], Any], value: Any = 1) -> Any:
    for _ in range(depth):
        value = wrap(value)
    return value


def containing_itself() -> list[Any]:
    values: list[Any] = [1]
    values.append(values)
    return values


def dict_containing_itself() -> dict[str, Any]:
    values: dict[str, Any] = {}
    values["self"] = values
    return values


def model_containing_itself() -> Loose:
    model = Loose()
    model.value = [model]
    return model


def tree(depth: int) -> Tree:
    found = Tree()
    for _ in range(depth):
        found = Tree(children=[found])
    return found


async def async_generator() -> Any:
    yield 1


def failing_generator() -> Iterator[int]:
    yield 1
    raise ZeroDivisionError


PLAIN: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "true": lambda: True,
    "false": lambda: False,
    "zero": lambda: 0,
    "negative": lambda: -7,
    "2**53 + 1": lambda: 2**53 + 1,
    "2**63": lambda: 2**63,
    "2**64": lambda: 2**64,
    "2**70": lambda: 2**70,
    "-2**70": lambda: -(2**70),
    "integer of the most digits": lambda: 10**4299,
    "integer of too many digits": lambda: 10**4300,
    "integers of too many digits inside": lambda: {"a": [1, -(10**4300)]},
    "text of many digits": lambda: "7" * 10_000,
    "float": lambda: 0.1,
    "float that is whole": lambda: 2.0,
    "large float": lambda: 1e300,
    "small float": lambda: 5e-324,
    "float at 1e16": lambda: 1e16,
    "minus zero": lambda: -0.0,
    "NaN": lambda: NAN,
    "infinity": lambda: INFINITY,
    "minus infinity inside": lambda: {"a": [-INFINITY, (NAN, 1.5)]},
    "empty text": lambda: "",
    "text": lambda: 'é日本🐍 "\\/\b\f\n\r\t\0\x7f\u2028\x85',
    "lone surrogate": lambda: "a\ud800b",
    "lone surrogates inside": lambda: {"\udfff": ["\ud83d", "é"]},
    "surrogate pair apart": lambda: "\ud83d\ude00",
    "empty list": list,
    "empty dict": dict,
    "tuple": lambda: (1, ("a", None)),
    "mixed": lambda: {"a": [1, 2.5, None, True, {"b": ()}], "": ""},
    "integer keys": lambda: {1: "a", -2: "b"},
    "float keys": lambda: {1.5: "a", NAN: "b", INFINITY: "c"},
    "bool and None keys": lambda: {True: 1, False: 2, None: 3},
    "1 and '1' as keys": lambda: {1: "a", "1": "b"},
    "True and 'true' as keys": lambda: {True: "a", "true": "b"},
    "str-subclass keys": lambda: {Text("a"): 1, Text("_sa"): 2},
    "enum keys": lambda: {Color.RED: 1, Level.LOW: 2, Name.ANN: 3},
    "UUID and moment keys": lambda: {uuid.UUID(int=1): 1, MOMENT: 2, Decimal("1.5"): 3},
    "tuple keys": lambda: {(1, 2): 3},
    "frozenset keys": lambda: {frozenset({1}): 3},
    "bytes keys": lambda: {b"a": 1},
    "object keys": lambda: {Opaque(): 1},
    "_sa keys": lambda: {"_sa_instance_state": object(), "_s": 1, "_sa": 2, "a_sa": 3},
    "_sa keys inside": lambda: [{"a": {"_sa_x": 1, "b": ({"_sa_y": 2},)}}],
    "text with _sa": lambda: {"a": '"_sa', "b": ["_sa_x"]},
    "lists to the depth of the walk": lambda: nested(63, lambda value: [value]),
    "lists one deeper": lambda: nested(64, lambda value: [value]),
    "dicts two deeper": lambda: nested(66, lambda value: {"a": value}),
    "mixed 150 deep": lambda: nested(75, lambda value: ({"a": value},), NAN),
    "too deep": lambda: nested(100_000, lambda value: [value]),
    "dicts too deep": lambda: nested(100_000, lambda value: {"a": value}),
    "list that contains itself": containing_itself,
    "dict that contains itself": dict_containing_itself,
    "the same list twice": lambda: (lambda shared: [shared, shared])([1]),
}

OTHER: dict[str, Callable[[], Any]] = {
    "str subclass": lambda: Text("a"),
    "int subclass": lambda: Integer(7),
    "float subclass": lambda: Ratio(0.5),
    "float subclass NaN": lambda: [Ratio("nan")],
    "Enum": lambda: [Color.RED, Color.NUMBER],
    "Enum of a tuple": lambda: Color.PAIR,
    "Enum of a moment": lambda: Color.MOMENT,
    "IntEnum": lambda: {"a": Level.LOW},
    "str Enum": lambda: (Name.ANN, {Name.ANN: 1}),
    "Flag": lambda: Access.READ | Access.WRITE,
    "Decimal": lambda: [Decimal("1.10"), Decimal("3"), Decimal("1E+3"), Decimal("-0.0")],
    "Decimal of many digits": lambda: Decimal("0.1234567890123456789012345"),
    "Decimal NaN": lambda: [Decimal("NaN"), Decimal("-Infinity")],
    "Decimal sNaN": lambda: Decimal("sNaN"),
    "moments": lambda: [
        MOMENT,
        MOMENT.replace(tzinfo=datetime.timezone.utc),
        MOMENT.replace(tzinfo=ZONE),
        datetime.datetime.min,
        MOMENT.date(),
        MOMENT.time(),
        datetime.time(1, 2, 3, tzinfo=ZONE),
    ],
    "timedelta": lambda: [datetime.timedelta(days=-1, microseconds=1), datetime.timedelta(0)],
    "UUID": lambda: uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "paths": lambda: [
        pathlib.Path("a/b"),
        pathlib.PurePosixPath("/x"),
        pathlib.PureWindowsPath("C:\\y"),
    ],
    "bytes": lambda: {"a": "é".encode()},
    "bytes that are no UTF-8": lambda: b"\xff",
    "bytearray": lambda: bytearray(b"ab"),
    "memoryview": lambda: memoryview(b"ab"),
    "set": lambda: {1},
    "frozenset of models' values": lambda: frozenset({Color.RED}),
    "deque": lambda: collections.deque([1, Decimal("1.5")]),
    "generator": lambda: (n for n in range(3)),
    "generator of generators": lambda: ((m for m in range(n)) for n in range(3)),
    "generator that fails": failing_generator,
    "async generator": async_generator,
    "range": lambda: range(3),
    "map": lambda: map(str, [1, 2]),
    "iterator of pairs": lambda: iter([("a", 1)]),
    "dict views": lambda: {"a": 1}.keys(),
    "dict items": lambda: {"a": 1}.items(),
    "OrderedDict": lambda: collections.OrderedDict(a=1, _sa=2),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "Counter": lambda: collections.Counter("aab"),
    "mappingproxy": lambda: types.MappingProxyType({"a": Decimal("1.5")}),
    "UserDict": lambda: collections.UserDict(a=1),
    "UserList": lambda: collections.UserList([1]),
    "list subclass": lambda: type("Rows", (list,), {})([1, NAN]),
    "named tuple": lambda: Place(1, Decimal("2.5")),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1, _sa=2),
    "addresses": lambda: [
        ipaddress.ip_address("::1"),
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_interface("10.0.0.1/8"),
    ],
    "pattern": lambda: re.compile("a+"),
    "secrets": lambda: [pydantic.SecretStr("a"), pydantic.SecretBytes(b"b")],
    "URL": lambda: pydantic.AnyUrl("https://example.org"),
    "name and email": lambda: pydantic.NameEmail("Ann", "ann@example.org"),
    "undefined": lambda: [PydanticUndefined],
    "complex": lambda: 1j,
    "ellipsis": lambda: ...,
    "function": lambda: nested,
    "module": lambda: types.ModuleType("empty"),
    "class": lambda: Opaque,
    "object": object,
    "object with __dict__": lambda: Plain(a=1, b=Plain(c=Decimal("1.5"))),
    "object with _sa state": lambda: Alchemy(_sa_instance_state=object(), id=7),
    "object with slots": Opaque,
    "object of pairs": Pairs,
    "object with keys()": Keyed,
    "object that fails": Failing,
    "exception": lambda: ValueError("a"),
    "object with model_dump_json": lambda: DumpsItself('{"a": 1}'),
    "object whose JSON has lines": lambda: DumpsItself('{\n"a":\r\n1\r}'),
    "object whose JSON is a str subclass": lambda: DumpsItself(Text("1")),
    "object whose JSON is bytes": lambda: DumpsItself(b"1"),
    "object whose JSON is no Unicode": lambda: DumpsItself('"\ud800"'),
    "object whose model_dump_json is None": DumpsNone,
    "object whose model_dump_json fails": DumpsBadly,
    "object that has every attribute": AnswersEverything,
    "dataclass": lambda: Point(1, Decimal("2.50")),
    "dataclass of dataclasses": lambda: Line(Point(1), [Point(2, NAN), Point(3, {1: "a"})]),
    "dataclass with a model": lambda: Carries(Item(name="a", price=Decimal("1.10"))),
    "dataclass with _sa fields": AlchemyData,
    "dataclass type": lambda: Point,
    "pydantic dataclass": lambda: Checked(Decimal("1.10")),
    "list of dataclasses": lambda: [Point(1), Checked(Decimal("1.10"))],
    "dataclass that is a dict": lambda: DictData(2),
    "dataclass that is a list": lambda: ListData([2]),
    "dataclass that is an Enum": lambda: [Animal.CAT, {"a": Animal.BIRD}],
    "dataclass with slots": lambda: Slotted(uuid.UUID(int=7), MOMENT),
    "dataclass without an attribute": Whole,
    "dataclass whose class lies": ItsClassLies,
    "dataclass of everything": lambda: Point(
        {"a": [uuid.UUID(int=3), Decimal("1.50"), (Color.RED, MOMENT)], "_sa": 1},
        [datetime.timedelta(1), b"a", {1}, Place(1, Decimal("2.5")), pathlib.Path("/a"), Text("b")],
    ),
    "dataclass with odd keys": lambda: Point(1, {Color.RED: 1, 2: [{MOMENT.date(): NAN}]}),
    "dataclass with a dataclass as a key": lambda: Point(1, {AlchemyData(): 1}),
    "dataclass with _sa fields inside": lambda: Point(1, [AlchemyData()]),
    "dataclass with a generator": lambda: Point(1, once(1)),
    "dataclass with a lock": lambda: Point([object], {"a": threading.Lock()}),
    "dataclass with what cannot be copied after what cannot be encoded": lambda: Line(
        Point(1, Opaque()), [Point(CannotBeCopied())]
    ),
    "dataclass with what is copied otherwise": lambda: Point(Copies(), [{"a": Copies()}]),
    "dataclass with counters": lambda: Point(
        collections.Counter("aab"), collections.defaultdict(list, a=[Point(1)])
    ),
    "dataclass with odd enums": lambda: Point(OddValues.NUMBERS, OwnValue.ONE),
    "dataclass that contains itself": data_containing_itself,
    "dataclasses to the depth of the walk": lambda: nested(64, lambda value: Point(1, value)),
    "dataclasses 150 deep": lambda: nested(150, lambda value: Point(1, value)),
    "pydantic dataclass with a model": lambda: Carries([Checked(Decimal(1)), Loose(value=MOMENT)]),
    "model in a dataclass in a model": lambda: Loose(value=Carries(Loose(value=Color.RED))),
    "subclasses with their own text": lambda: [
        OwnMoment(2024, 2, 29),
        OwnDate(2024, 2, 29),
        OwnDelta(1),
        OwnUUID(int=7),
        OwnDecimal("1.5"),
        OwnText("a"),
        OwnInteger(7),
        OwnFloat(0.5),
        OwnPath("/a"),
    ],
    "subclasses with their own text in a dataclass": lambda: Point(
        [OwnMoment(2024, 2, 29), OwnUUID(int=7), OwnDecimal("1.5"), OwnDelta(1)],
        [OwnText("a"), OwnInteger(7), OwnFloat(0.5), OwnDate(2024, 2, 29)],
    ),
    "bytes that decode themselves": lambda: OwnBytes(b"a"),
    "dict with its own items": lambda: OwnItems(a=1),
    "dict with its own keys": lambda: OwnKeys(a=1, b=2),
    "dict with its own iteration": lambda: OwnDictIteration(a=1, b=2),
    "OrderedDict in its own order": lambda: (
        lambda entries: (entries.move_to_end("a"), entries)[1]
    )(collections.OrderedDict(a=1, b=Decimal("1.5"), _sa=2)),
    "list with its own iteration": lambda: OwnIteration([1]),
    "named tuple with its own iteration": lambda: OwnPlace(1),
    "Enum with its own value": lambda: [OwnValue.ONE],
    "Enum with a member named value": lambda: [*ValueIsAMember],
    **{f"Enum of {name}": (lambda name=name: [OddValues[name]]) for name in OddValues.__members__},
    "str Enum that shows itself otherwise": lambda: {ShownName.ANN: ShownName.ANN},
    "IntFlag": lambda: [Permission.READ | Permission.WRITE, Permission(0)],
    "moments in zones": lambda: [
        MOMENT.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.time(1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        datetime.time(1, 2, 3, 40, fold=1),
        MOMENT.replace(microsecond=0, tzinfo=datetime.timezone(datetime.timedelta(seconds=1))),
    ],
    "moment in a zone that fails": lambda: MOMENT.replace(tzinfo=FailingZone()),
    "long timedeltas": lambda: [
        datetime.timedelta(days=365 * 140, microseconds=1),
        datetime.timedelta(days=-365 * 143, microseconds=1),
        datetime.timedelta.max,
        datetime.timedelta.min,
    ],
    "odd Decimals": lambda: [
        Decimal(text)
        for text in ("-0", "0E-8", "0E+3", "-1.5E+3", "1E-7", "1E+30", "0." + "1" * 700, "9" * 700)
    ],
    "Decimal of too many digits": lambda: Decimal("9" * 4400),
    "UUID without its number": lambda: uuid.UUID.__new__(uuid.UUID),
    "keys that become equal": lambda: {Color.RED: 1, "red": 2, "b": 3},
    "numbers as keys that become equal": lambda: {Color.NUMBER: 1, 2.0: 2, True: 3},
    "keys that become equal, of what is refused": lambda: {"red": 10**5000, Color.RED: 1},
    "keys that become equal, of lone surrogates": lambda: {"red": "\ud800", Color.RED: "\ud801"},
    "a generator before an enum key": lambda: {"a": 1, "b": once(1, 2), Color.RED: once(3)},
    "keys that become equal, of a generator": lambda: {"red": once(1, 2), Color.RED: once(3)},
    "keys that become equal, and one is refused": lambda: {Color.RED: object(), "red": 1},
    "keys that become equal, and one cannot be dumped": lambda: {Color.RED: 10**4300, "red": 1},
    "keys that become like _sa": lambda: {OddValues.STATE: 1, pathlib.PurePosixPath("_sa"): 2},
    "keys that say what they start with": lambda: {OwnText("x_sa"): 1, OwnText("y"): 2},
    "keys with lone surrogates": lambda: {"\ud800": once(1), "_sa\ud800": 2, "b": 3},
    "long integer keys": lambda: {2**64: 1, -(2**70): 2},
    "integer keys of too many digits": lambda: {10**4300: 1},
    "float keys as Python shows them": lambda: {1e16: 1, 1e-7: 2, 2.0: 3, -0.0: 4},
    "integer-subclass and float-subclass keys": lambda: {OwnInteger(7): 1, OwnFloat(0.5): 2},
    "address and UUID keys": lambda: {ipaddress.ip_address("::1"): 1, uuid.UUID(int=1): once(2)},
    "refused key before a refused value": lambda: {(1, 2): 1, "b": object()},
    "refused value before a refused key": lambda: {"b": object(), (1, 2): 1},
    "refused value before a key that cannot be dumped": lambda: {"b": object(), Color.MOMENT: 1},
    "what cannot be dumped before what cannot be encoded": lambda: [Color.MOMENT, object()],
    "what cannot be encoded in what cannot be dumped": lambda: {Color.MOMENT: [once(1), object()]},
    "long integer before a key that cannot be dumped": lambda: [10**4300, {Color.MOMENT: 1}],
    "key that cannot be dumped before a long integer": lambda: [{Color.MOMENT: 1}, 10**4300],
    "mock of a UUID": lambda: unittest.mock.MagicMock(
        spec=uuid.UUID, **{"__str__.return_value": "a"}
    ),
    **{
        f"object that says it is {kind.__name__}": (lambda kind=kind: [Lies(kind)])
        for kind in (dict, list, str, int, uuid.UUID, Item, Color, pathlib.PurePath, type(None))
    },
    "generators in plain containers": lambda: {"a": [once(1), (once(MOMENT),)], "b": once(once(2))},
    "generators beside lone surrogates": lambda: [once(1), "\ud800", {"_sa": once(2)}],
}

MODELS: dict[str, Callable[[], Any]] = {
    "model": lambda: Item(name="é", price=Decimal("1.10"), tags={"a"}),
    "model of every type": Everything,
    "model with aliases": lambda: Aliased(first_name="a", lastName="b"),
    "model that prefers names": lambda: AliasedUnlessAsked(first_name="a"),
    "model with computed fields": lambda: Computed(width=3),
    "model whose computed field fails": Computing,
    "model with field serializers": FieldSerializers,
    "model with a serializer": lambda: WholeSerializer(value=Decimal("1.5")),
    "model with a serializer that returns an object": lambda: WholeSerializer(value=Opaque()),
    "model with a serializer of odd keys": lambda: WholeSerializer(value={1: 2, None: 3}),
    "model with a wrapping serializer": lambda: WrapSerializer(value=1),
    "model whose serializer fails": FailingSerializer,
    "model with its own model_dump": OverriddenDump,
    "model with its own model_dump_json": OverriddenDumpJson,
    "model with both": OverriddenBoth,
    "model that dumps bytes": DumpsNonsense,
    "RootModel of a list": lambda: RootModel[list[int]]([1]),
    "RootModel of text": lambda: RootModel[str]("a"),
    "RootModel of a Decimal": lambda: RootModel[Decimal](Decimal("1.10")),
    "RootModel of _sa keys": lambda: RootModel[dict[str, int]]({"_sa": 1, "a": 2}),
    "RootModel of NaN": lambda: RootModel[float](NAN),
    "RootModel of None": lambda: RootModel[None](None),
    "generic model": lambda: Box[Decimal](content=Decimal("1.10")),
    "models in models": lambda: Outer(
        items=[Item(name="a", price=Decimal(1))],
        by_name={"b": Item(name="b", price=Decimal(2))},
        loose=Aliased(first_name="a", lastName="b"),
    ),
    "model with extra fields": lambda: Extra(a=Decimal("1.10"), _sa=1, b={"_sa": 1}),
    "model with extra fields of clashing names": lambda: Extra(model_dump=1, model_dump_json=2),
    "model with hidden fields": Hiding,
    "subclass in a field": lambda: HoldsBase(model=Derived(), duck=Derived()),
    "model of wrong values": lambda: Item.model_construct(name=7, price="cheap"),
    "model of missing values": lambda: Item.model_construct(),
    "model with an _sa alias": AlchemyAlias,
    "model with _sa keys": AlchemyInside,
    "model with text like _sa and NaN": Marks,
    "model with NaN": lambda: Loose(value=[NAN, {"a": INFINITY}]),
    "model with 2**70": lambda: Loose(value=2**70),
    "model with an integer of too many digits": lambda: Loose(value=10**4300),
    "model with a lone surrogate": lambda: Loose(value="\ud800"),
    "model with a timedelta": lambda: Loose(value=datetime.timedelta(days=400, seconds=1.5)),
    "model with bytes": lambda: Loose(value=b"ab"),
    "model with bytes that are no UTF-8": lambda: Loose(value=b"\xff"),
    "model with a Decimal": lambda: Loose(value=[Decimal("1.10"), Decimal("NaN")]),
    "model with an object": lambda: Loose(value=Opaque()),
    "model with an object that has __dict__": lambda: Loose(value=Plain(a=1)),
    "model with a dataclass": lambda: Loose(value=Point(1, Decimal("1.5"))),
    "model with a generator": lambda: WithGenerator(values=(n for n in range(3))),
    "model with odd keys": lambda: Loose(value={1: 1, None: 2, (1, 2): 3, MOMENT: 4, False: 5}),
    "model with enums": lambda: Loose(value=[Color.RED, Color.PAIR, Name.ANN]),
    "model with its own model_dump inside": lambda: Loose(value=OverriddenDump()),
    "model that contains itself": model_containing_itself,
    "deep tree": lambda: tree(40),
    "tree that is too deep": lambda: tree(5_000),
    "strings mode": lambda: LooseWithModes(
        value=[datetime.timedelta(seconds=1.5), b"\xff\x00", NAN, INFINITY], number=NAN
    ),
    "strings mode, ordinary": lambda: LooseWithModes(value=datetime.timedelta(seconds=1.5)),
    "hex and constants mode": lambda: LooseHex(value=[b"\xff", NAN], number=-INFINITY),
    "hex mode, ordinary": lambda: LooseHex(value=b"\xff"),
    "null mode": lambda: LooseNull(value=NAN, number=INFINITY),
    "generator in a model with an _sa key": lambda: Loose(value={"_sa": 1, "b": once(1, 2)}),
    "generator in a model with a lone surrogate": lambda: Loose(value=[once(1, 2), "\ud800"]),
    "generator in a model with NaN": lambda: Loose(value=[once(1, 2), NAN]),
    "generator in a model with constants": lambda: ReadsOnceInConstants(source=once(1, 2)),
    "generator in a model with a long integer": lambda: Loose(value=[once(1, 2), 10**4300]),
    "generator in a model's serializer": lambda: ReadsOnce(source=once(1, 2)),
    "generator in a model in a model": lambda: Loose(value=Loose(value=[once(1), {"_sa": 2}])),
    "unvalidated iterator": lambda: unvalidated(values=iter([1, 2])),
    "unvalidated iterator beside _sa": lambda: unvalidated(values=iter([1, 2]), text='"_sa'),
    "unvalidated iterator beside an _sa key": lambda: unvalidated(
        values=[1], more={"_sa": [2], "b": once(3)}
    ),
    "unvalidated iterator beside NaN": lambda: unvalidated(values=map(int, "12"), text="NaN"),
    "unvalidated iterator beside a long integer": lambda: unvalidated(values=once(10**700, 1)),
    "unvalidated iterator of an integer that is too long": lambda: unvalidated(
        values=once(10**4300)
    ),
    "unvalidated iterator in a model in a model": lambda: unvalidated(
        text="NaN", inner=unvalidated(values=once(1))
    ),
    "unvalidated iterator in a list": lambda: [unvalidated(values=[once(1)], text="Infinity")],
    "model with a field named like a method": FieldNamedLikeAMethod,
}

KINDS = {
    **PLAIN,
    **OTHER,
    **MODELS,
    **{f"list of {name}": (lambda make=make: [make()]) for name, make in MODELS.items()},
    **{f"dict of {name}": (lambda make=make: {"a": (make(), 1)}) for name, make in MODELS.items()},
    "model class": lambda: Item,
    "different kinds together": lambda: [
        Item(name="a", price=Decimal("1.10")),
        Point(1, MOMENT),
        {"a": {1, 2}, "_sa": 1},
        LooseHex(value=b"\xff"),
        Decimal("1.10"),
        (NAN, Color.RED),
    ],
}
