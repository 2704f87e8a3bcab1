"""The compiled core. Documentation and specification: `pure`."""

from collections.abc import Callable, Coroutine
from typing import Any, final

from typing_extensions import Self, disjoint_base

__all__ = ["Buffer", "ItemSchema", "ServerSentEvent", "format_sse_event", "step"]

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
class Buffer:
    def __new__(
        cls,
        item_schema: ItemSchema | None = None,
        *,
        max_pending: int = 65_536,
        max_age: float = 0.002,
    ) -> Self: ...
    def push(self, item: object) -> bool: ...
    def take(self) -> bytes: ...
    def restart_age(self) -> None: ...
    @property
    def pending(self) -> int: ...

def format_sse_event(
    *,
    data_str: str | None = None,
    event: str | None = None,
    id: str | None = None,
    retry: int | None = None,
    comment: str | None = None,
) -> bytes: ...
def step(coroutine: Coroutine[Any, None, object], default: object, /) -> Any: ...
