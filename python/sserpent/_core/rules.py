"""The rules of a protocol for the items of a stream, checked and done for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from json import decoder, encoder
from typing import Any

from .event import ServerSentEvent
from .frame import check_event
from .json import dumped, encoded_json, is_plain, plain_json, wrong_type
from .text import checked_text


class ItemRules:
    """The rules of a protocol for the items of a stream.

    Args:
        owner: The class whose rules these are, for errors.
        only_objects: Whether items other than events have to be objects in JSON.
        name_from: The field of an item that names its event.
        exclude_none: Whether the fields of models that are None are left out.
        number_as: The field of an item that gets its number, from 0, whatever it had there.
        leaves_out: The whole data of events that are left out, blanks around it or not.
        keeps_first: Whether the first event is kept.
        convert: Called with an item and its number; returns what is sent for it, or None for
            nothing.
    """

    __slots__ = (
        "_convert",
        "_exclude_none",
        "_keeps_first",
        "_leaves_out",
        "_name_from",
        "_number_as",
        "_only_objects",
        "_owner",
    )

    def __init__(
        self,
        owner: str,
        *,
        only_objects: bool = True,
        name_from: str | None = None,
        exclude_none: bool = False,
        number_as: str | None = None,
        leaves_out: str | None = None,
        keeps_first: bool = False,
        convert: Callable[[Any, int], Any] | None = None,
    ) -> None:
        self._owner = owner
        self._only_objects = only_objects
        self._name_from = name_from
        self._exclude_none = exclude_none
        self._number_as = number_as
        self._leaves_out = leaves_out
        self._keeps_first = keeps_first
        self._convert = convert

    def _json_of(self, item: Any, number: int) -> tuple[bytes, str | None]:
        """Returns the JSON of an item without a declared type as it is sent, and the name of its
        event.

        Raises:
            Exception: as `_named`, or whatever the item's dump or FastAPI's encoder raise.
        """
        value = dumped(item, self._exclude_none)
        if type(value) is dict and self._asks_for_members():
            # Copied, since another thread may change it.
            members: dict[Any, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
            adapted = self._named_dict(members, item, number)
            if adapted is not None:
                return adapted
        json = plain_json(value) if is_plain(value) else None
        if json is None:
            json = encoded_json(value, self._exclude_none)
        return self._named(json, item, number)

    def _asks_for_members(self) -> bool:
        return self._name_from is not None or self._number_as is not None

    def _named_dict(
        self, members: dict[str, Any], item: object, number: int
    ) -> tuple[bytes, str | None] | None:
        """Does the same for a dict, which is changed; returns None where its members may not be
        those of its JSON."""
        if not is_plain(members):
            return None
        name = members.get(self._name_from, _MISSING) if self._name_from is not None else None
        if self._number_as is not None:
            members[self._number_as] = number
        json = plain_json(members)
        if json is None:
            return None
        return json, None if self._name_from is None else self._checked_name(name, item)

    def _named(self, json: bytes, item: object, number: int) -> tuple[bytes, str | None]:
        """Returns the JSON of an item as it is sent, and the name of its event.

        Raises:
            TypeError: it is no object, or its name no text.
            ValueError: it has no name, or one that no event can have.
        """
        if self._only_objects and not json.startswith(b"{"):
            raise wrong_type(f"{self._owner} sends dicts, models and events", item)
        if not self._asks_for_members():
            return json, None
        text = json.decode()
        name, number_at = None, None
        for key, start, end in _members(text):
            if key == self._name_from and name is None:
                name = start, end
            if key == self._number_as and number_at is None:
                number_at = start, end
            if name is not None and (self._number_as is None or number_at is not None):
                break
        named = None
        if self._name_from is not None:
            named = self._checked_name(_MISSING if name is None else _value(text, name[0]), item)
        return self._numbered(text, number_at, number).encode(), named

    def _checked_name(self, name: Any, item: object) -> str:
        rule = f"{self._owner} names an event by the field '{self._name_from}' of its item"
        if name is _MISSING:
            raise ValueError(f"{rule}, which this {type(item).__name__} does not have")
        if not isinstance(name, str):
            raise TypeError(f"{rule}, which must be a str")
        checked: Any = check_event(checked_text("event", name))
        return str(checked)

    def _numbered(self, text: str, at: tuple[int, int] | None, number: int) -> str:
        if self._number_as is None:
            return text
        if at is not None:
            return f"{text[: at[0]]}{number}{text[at[1] :]}"
        comma = "" if text == "{}" else ","
        return f"{text[:-1]}{comma}{_encode_key(self._number_as)}:{number}}}"

    def _is_left_out(self, event: ServerSentEvent[Any, Any]) -> bool:
        if self._leaves_out is None or event._raw_data is None:
            return False
        return event._raw_data.strip(_BLANKS) == self._leaves_out

    def _without(self, ready: bytes) -> tuple[bytes, bool]:
        """Returns events that are framed already, without those that are left out, and whether the
        last one with data was."""
        if self._leaves_out is None or self._leaves_out.encode() not in ready:
            return ready, False
        left_out = self._leaves_out.encode()
        kept: list[bytes] = []
        is_last = False
        for block, data in _blocks(ready):
            if data != left_out:
                kept.append(block)
            if data is not None:
                is_last = data == left_out
        return b"".join(kept), is_last


_MISSING = object()
# Clients trim these from an end mark, or do not recognise it.
_BLANKS = " \t\r\n\f"
_encode_key = encoder.JSONEncoder(ensure_ascii=False).encode
_raw_decode = decoder.JSONDecoder().raw_decode
_scan_string: Callable[[str, int], tuple[str, int]] = decoder.scanstring  # type: ignore[attr-defined]  # pyright: ignore


def _blocks(ready: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yields the blocks of an event stream, each with the blank line that ends it, and their data
    without the blanks around it; None for that of a block without any, and of a rest without a
    blank line."""
    block: list[bytes] = []
    for line in ready.splitlines(keepends=True):
        block.append(line)
        if not line.strip(b"\r\n"):
            values = [each[5:].strip(b"\r\n") for each in block if each.startswith(b"data:")]
            data = b"\n".join(value.removeprefix(b" ") for value in values)
            yield b"".join(block), data.strip(_BLANKS.encode()) if values else None
            block = []
    if block:
        yield b"".join(block), None


def _value(json: str, at: int) -> str | None:
    """Returns the value that begins there, if it is a string."""
    return _scan_string(json, at + 1)[0] if json[at] == '"' else None


def _members(json: str) -> Iterator[tuple[str, int, int]]:
    """Yields the keys of an object in compact JSON, and where their values are."""
    at = 1
    while json.startswith('"', at):
        key, after_key = _scan_string(json, at + 1)
        _, end = _raw_decode(json, after_key + 1)
        yield key, after_key + 1, end
        at = end + 1
