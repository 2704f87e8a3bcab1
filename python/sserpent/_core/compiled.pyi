"""The compiled core. Documentation and specification: `pure`."""

import builtins
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextvars import Context
from types import GenericAlias
from typing import Any, TypeVar, final, overload

from typing_extensions import Self, disjoint_base

_T = TypeVar("_T")
__all__ = [
    "BaseSender",
    "Buffer",
    "DeclaredEvents",
    "EventStreamParser",
    "EventTooLarge",
    "ItemRules",
    "ItemSchema",
    "MessageEvent",
    "Meter",
    "Pump",
    "ServerSentEvent",
    "format_sse_event",
    "step",
    "step_as",
]

@disjoint_base
class ServerSentEvent:
    def __new__(
        cls,
        *,
        data: Any = None,
        raw_data: str | None = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
    ) -> Self: ...
    def __init__(
        self,
        *,
        data: Any = None,
        raw_data: str | None = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
    ) -> None: ...
    @property
    def data(self) -> Any: ...
    @property
    def raw_data(self) -> str | None: ...
    @property
    def event(self) -> str | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def retry(self) -> int | None: ...
    @property
    def comment(self) -> str | None: ...
    def encode(self) -> bytes: ...
    @classmethod
    def __class_getitem__(cls, parameters: Any, /) -> GenericAlias: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...

@final
class ItemSchema:
    def __new__(
        cls,
        validate: Callable[..., Any],
        validate_options: dict[str, Any],
        to_json: Callable[..., bytes],
        json_options: dict[str, Any],
        valid_class: type | None = None,
    ) -> Self: ...

@final
class DeclaredEvents:
    def __new__(
        cls,
        by_name: dict[str | None, ItemSchema],
        by_class: dict[type, tuple[str, ItemSchema]],
        otherwise: Callable[[Any], tuple[str | None, ItemSchema, Any]],
    ) -> Self: ...

@final
class ItemRules:
    def __new__(
        cls,
        owner: str,
        *,
        only_objects: bool = True,
        name_from: str | None = None,
        exclude_none: bool = False,
        number_as: str | None = None,
        leaves_out: str | None = None,
        keeps_first: bool = False,
        convert: Callable[[Any, int], Any] | None = None,
    ) -> Self: ...

@final
class Buffer:
    def __new__(
        cls,
        item_schema: ItemSchema | DeclaredEvents | None = None,
        *,
        max_pending: int = 65_536,
        max_age: float = 0.002,
        framed: bool = False,
        rules: ItemRules | None = None,
        count: int = 0,
    ) -> Self: ...
    def push(self, item: object) -> bool: ...
    def append(self, event: bytes) -> None: ...
    def kept(self) -> tuple[bytes, bytes, int]: ...
    def take(self) -> bytes: ...
    def restart_age(self) -> None: ...
    @property
    def at_line_start(self) -> bool: ...
    @property
    def pending(self) -> int: ...

@final
class Meter:
    def __new__(cls, pending: Any, on_first_event: Callable[[], object]) -> Self: ...
    def take(self) -> bytes: ...
    @property
    def at_line_start(self) -> Any: ...
    @property
    def pending(self) -> Any: ...
    @property
    def counted(self) -> tuple[int, int, int]: ...

class EventTooLarge(ValueError): ...

@final
class MessageEvent:
    def __new__(
        cls, data: str | bytes = "", *, type: str | None = None, last_event_id: str | None = None
    ) -> Self: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def data_bytes(self) -> bytes: ...
    @property
    def last_event_id(self) -> str: ...
    def json(self) -> Any: ...
    @overload
    def decode(self, item: builtins.type[_T], /) -> _T: ...
    @overload
    def decode(self, item: Any, /) -> Any: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[bytes], dict[str, str]]: ...

@final
class EventStreamParser:
    def __new__(
        cls, max_event_size: int = 16_777_216, last_event_id: str | None = None
    ) -> Self: ...
    def feed(self, chunk: bytes | bytearray | memoryview, /) -> list[MessageEvent]: ...
    @property
    def last_event_id(self) -> str: ...
    @property
    def reconnection_time(self) -> int | None: ...

def format_sse_event(
    *,
    data_str: str | None = None,
    event: str | None = None,
    id: str | None = None,
    retry: int | None = None,
    comment: str | None = None,
) -> bytes: ...

@disjoint_base
class BaseSender:
    def __new__(
        cls, send: Any, pending: Any, loop: Any, context: Context, current_tasks: Any
    ) -> Self: ...
    def flush(self) -> None: ...
    @property
    def pending(self) -> Any: ...
    @property
    def loop(self) -> Any: ...
    @property
    def context(self) -> Context: ...
    send: Any
    in_progress: Any
    is_open: bool
    cancellations: int
    sent_at: float

@final
class Pump:
    def __new__(
        cls,
        iterator: AsyncIterator[Any],
        buffer: Buffer,
        sender: BaseSender,
        explain: Callable[[Exception, object], Exception],
    ) -> Self: ...
    @property
    def suspended(self) -> bool: ...
    @property
    def at_yield(self) -> bool: ...
    def stop(self) -> None: ...
    def throw_next(self, error: BaseException, /) -> None: ...
    def throw(self, *error: Any) -> Any: ...
    def __await__(self) -> Generator[Any, None, bool]: ...

def step(coroutine: Coroutine[Any, None, object], default: object, /) -> Any: ...
def step_as(
    task: Any,
    current_tasks: Any,
    loop: Any,
    context: Context,
    coroutine: Coroutine[Any, None, object],
    default: object,
    error: BaseException | None = None,
    /,
) -> Any: ...
