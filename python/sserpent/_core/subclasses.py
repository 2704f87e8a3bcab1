"""Subclasses of `ServerSentEvent`, for both backends: the defaults in their bodies, and an
`__init__` of their own. FastAPI's class is a pydantic model, so its users expect both.

Constructing an event of `ServerSentEvent` itself knows nothing of all this: what a subclass needs
is decided once, where the class is made, and done in a `__new__` that the class is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from copy import deepcopy
from types import MemberDescriptorType
from typing import Any, NamedTuple

from .conversion import FieldInfo

_super: Any = super
FIELDS = ("data", "raw_data", "event", "id", "retry", "comment")


class Rules(NamedTuple):
    """How the events of a subclass get their fields.

    Attributes:
        base: The `ServerSentEvent` that it is a subclass of.
        defaults: The fields that the class gives a default.
        has_init: Whether an `__init__` of the user's comes before that of `base`.
        by_init: Whether that `__init__` gives the fields. A `__new__` of the user's comes first.
        goes_on: Whether another base class, behind `base`, has an `__init__`.
    """

    base: Any
    defaults: Mapping[str, Any]
    has_init: bool
    by_init: bool
    goes_on: bool

    def complete(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields that an event is given, and the class's defaults for all others."""
        completed = {**self.defaults, **fields}
        data = self.defaults.get("data")
        if data is not None and "data" not in fields and type(data).__hash__ is None:
            completed["data"] = deepcopy(data)  # as pydantic does, of what may be changed
        return completed


def prepare(base: Any, cls: Any, options: dict[str, Any]) -> None:
    """Is the `__init_subclass__` of an event class.

    Raises:
        TypeError: a field is given what is no value, or the class has a `__new__` that does not
            know its defaults; the message names class and field.
        ValueError: the default of a field breaks a rule of that field.
    """
    _super(base, cls).__init_subclass__(**options)
    defaults = {name: value for name in FIELDS for value in _default(base, cls, name)}
    if defaults.get("data") is not None and defaults.get("raw_data") is not None:
        raise ValueError(f"{cls.__name__} cannot set both 'data' and 'raw_data' by default")
    makers: list[Any] = [
        vars(each)["__new__"] for each in _before(base, cls) if "__new__" in vars(each)
    ]
    if defaults and makers and makers[-1] is not _NEW:
        raise TypeError(
            f"{cls.__name__}.{next(iter(defaults))}: a class with a __new__ of its own gives its"
            " defaults there, as arguments of super().__new__()"
        )
    has_init = any("__init__" in vars(each) for each in _before(base, cls))
    by_init = has_init and (not makers or makers[0] is _NEW)
    others = cls.__mro__[cls.__mro__.index(base) + 1 : -1]
    goes_on = any("__init__" in vars(each) for each in others)
    cls._sserpent_rules = Rules(base, defaults, has_init, by_init, goes_on)
    if not makers and (defaults or has_init):
        cls.__new__ = _NEW


def _before(base: Any, cls: Any) -> Iterator[Any]:
    """Returns the classes whose attributes come before those of `base`."""
    return iter(cls.__mro__[: cls.__mro__.index(base)])


def _default(base: Any, cls: Any, name: str) -> Iterator[Any]:
    """Returns the default of a field, if the class has one, and leaves the field to `base`, which
    shows what an event has."""
    field: Any = base.__dict__[name]
    for each in _before(base, cls):
        if name not in vars(each):
            continue
        value: Any = each.__dict__[name]
        if value is field:
            yield each._sserpent_rules.defaults[name]
        else:
            yield _checked(base, cls, name, value)
            setattr(cls, name, field)
        return


def _checked(base: Any, cls: Any, name: str, value: Any) -> Any:
    kind: Any = value.__class__
    if issubclass(kind, (FieldInfo, dataclasses.Field)) or hasattr(kind, "__get__"):
        raise TypeError(
            f"{cls.__name__}.{name} must be the default itself, not {kind.__name__}:"
            f" what each event has of its own goes to super().__init__({name}=...)"
        )
    try:
        return getattr(base(**{name: value}), name)
    except ValueError as error:
        raise ValueError(f"{cls.__name__}.{name}: {error}") from None


def _new(cls: Any, *arguments: Any, **fields: Any) -> Any:
    rules: Rules = cls._sserpent_rules
    if not rules.by_init:
        return rules.base.__new__(cls, *arguments, **rules.complete(fields))
    # The arguments are those of __init__, which gives the fields. An event that is copied or read
    # from a pickle is only made, from all of its fields.
    try:
        return rules.base.__new__(cls, *arguments, **rules.complete(fields))
    except (TypeError, ValueError):
        return rules.base.__new__(cls)


_NEW = staticmethod(_new)


def fields_of_init(
    base: Any, event: Any, arguments: tuple[Any, ...], fields: dict[str, Any]
) -> Any:
    """Is the `__init__` of an event of a subclass.

    Returns:
        An event of `base` that has the fields that the event is to have, or None if it has them.

    Raises:
        TypeError: the fields are not those of an event, or the event got its fields in `__new__`.
        ValueError: a field breaks a rule.
    """
    rules = _rules_of(event.__class__)
    if rules is None:
        return None
    if not rules.has_init:
        if rules.goes_on:
            _super(base, event).__init__(*arguments, **fields)
        return None
    if rules.goes_on:
        _super(base, event).__init__()
    if rules.by_init:
        return base(*arguments, **rules.complete(fields))
    if arguments or fields:
        raise TypeError(
            f"{event.__class__.__name__} has a __new__ of its own, so its fields are arguments of"
            " super().__new__() there, not of super().__init__()"
        )
    return None


def _rules_of(kind: Any) -> Rules | None:
    rules: Rules | None = getattr(kind, "_sserpent_rules", None)
    return rules


def check_begun(kind: Any) -> None:
    """Raises `RuntimeError` for an event without a field that had to get them in an `__init__`."""
    rules = _rules_of(kind)
    if rules is not None and rules.by_init:
        raise RuntimeError(
            f"{kind.__name__}.__init__() must call super().__init__() with the fields of the event"
        )


def own_slots(base: Any, event: Any) -> dict[str, Any]:
    """Returns the attributes of an event that are slots of subclasses of `base`."""
    slots: dict[str, Any] = {}
    for each in _before(base, event.__class__):
        attributes: Any = each.__dict__
        for name, member in attributes.items():
            if isinstance(member, MemberDescriptorType) and hasattr(event, name):
                slots[name] = getattr(event, name)
    return slots


def arguments_of_new(kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns what a copy of an event is made from: also the fields without a value for which the
    class has a default."""
    rules = _rules_of(kind)
    defaults = () if rules is None else rules.defaults
    return {k: v for k, v in fields.items() if v is not None or k in defaults}
