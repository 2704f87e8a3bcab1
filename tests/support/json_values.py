"""Hypothesis strategies for values of every kind, in every nesting.

They answer functions that make the value, because some can be read only once.
"""

from __future__ import annotations

import datetime
import pathlib
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from pydantic import RootModel

from json_kinds import (
    KINDS,
    AlchemyAlias,
    AlchemyData,
    Aliased,
    Animal,
    Carries,
    Checked,
    Color,
    DictData,
    Item,
    Level,
    Loose,
    LooseHex,
    LooseNull,
    LooseWithModes,
    Name,
    OddValues,
    OverriddenDump,
    OverriddenDumpJson,
    OwnItems,
    OwnIteration,
    Place,
    Plain,
    Point,
    ReadsOnceInConstants,
    WholeSerializer,
    once,
)
from strategies import texts

Make = Callable[[], Any]

_texts = texts | st.sampled_from(["_sa", "_sa_x", "NaN", '"_sa', "\ud800", "a\nb"])
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, 2**70, -(2**70)])
    | st.floats()
    | _texts
)
_zones = st.none() | st.just(datetime.timezone.utc) | st.timezones()
_leaves = (
    st.decimals()
    | st.decimals(places=2)
    | st.datetimes(timezones=_zones)
    | st.dates()
    | st.times(timezones=_zones)
    | st.timedeltas()
    | st.uuids()
    | st.binary(max_size=3)
    | st.ip_addresses()
    | st.sampled_from([*Color, *Level, *Name, *Animal])
    # But for the one that Hypothesis cannot show.
    | st.sampled_from([each for each in OddValues if each is not OddValues.HUGE])
    | st.sampled_from([pathlib.PurePosixPath("/a"), object(), object, 1j, AlchemyData()])
)
_keys = (
    _texts
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats()
    | st.uuids()
    | st.dates()
    | st.sampled_from([*Color, Level.LOW, Name.ANN, OddValues.STATE])
    | st.sampled_from([(1, 2), b"a", b"\xff", Decimal("1.5"), pathlib.PurePosixPath("_sa")])
)


def _called(kind: Callable[..., Any], *parts: st.SearchStrategy[Make]) -> st.SearchStrategy[Make]:
    """`kind` of what the parts make."""
    return st.tuples(*parts).map(lambda makes: lambda: kind(*(make() for make in makes)))


def _filled(
    kind: Callable[..., Any], keys: st.SearchStrategy[Any], parts: st.SearchStrategy[Make]
) -> st.SearchStrategy[Make]:
    entries = st.dictionaries(keys, parts, max_size=3)
    return entries.map(lambda makes: lambda: kind({key: make() for key, make in makes.items()}))


def _listed(kind: Callable[..., Any], parts: st.SearchStrategy[Make]) -> st.SearchStrategy[Make]:
    return st.lists(parts, max_size=3).map(lambda makes: lambda: kind([make() for make in makes]))


def _constant(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Make]:
    return values.map(lambda value: lambda: value)


def _models(parts: st.SearchStrategy[Make]) -> st.SearchStrategy[Make]:
    return st.one_of(
        _constant(
            st.builds(
                Item.model_construct,
                name=_texts,
                price=st.decimals(),
                tags=st.sets(st.text(max_size=2), max_size=1),
            )
        ),
        _constant(st.builds(Aliased.model_construct, first_name=_texts, last_name=_texts)),
        _constant(st.builds(AlchemyAlias, state=st.integers())),
        _constant(st.builds(OverriddenDump, value=st.integers())),
        _constant(st.builds(OverriddenDumpJson, value=st.integers())),
        _called(lambda value: Loose(value=value), parts),
        _called(
            lambda value, delta, number: LooseWithModes(value=value, delta=delta, number=number),
            parts,
            _constant(st.timedeltas()),
            _constant(st.floats()),
        ),
        _called(lambda value: LooseHex(value=value, number=-float("inf")), parts),
        _called(lambda value: LooseNull(value=value), parts),
        _called(lambda value: ReadsOnceInConstants(source=once(value)), parts),
        _called(lambda value: WholeSerializer(value=value), parts),
        _called(RootModel[Any], parts),
    )


def _nests(parts: st.SearchStrategy[Make]) -> st.SearchStrategy[Make]:
    return st.one_of(
        *(_listed(kind, parts) for kind in (list, tuple, deque, iter, OwnIteration)),
        _listed(lambda values: once(*values), parts),
        *(_filled(dict, keys, parts) for keys in (_texts, _keys)),
        *(_filled(kind, _keys, parts) for kind in (OrderedDict, DictData, OwnItems)),
        _filled(lambda entries: defaultdict(list, entries), _keys, parts),
        _filled(lambda entries: Plain(**entries), st.sampled_from("ab"), parts),
        _constant(st.sets(st.integers() | st.uuids() | st.sampled_from(Color), max_size=1)),
        _called(Point, parts, parts),
        _called(Place, parts, parts),
        _called(Carries, parts),
        _constant(st.builds(Checked, st.decimals(allow_nan=False, allow_infinity=False))),
        _models(parts),
    )


def _plain_nests(parts: st.SearchStrategy[Make]) -> st.SearchStrategy[Make]:
    """What most applications send."""
    return st.one_of(
        _listed(list, parts),
        _listed(tuple, parts),
        _filled(dict, _texts, parts),
        _called(Point, parts, parts),
        _models(parts),
    )


_kinds = st.sampled_from([*KINDS]).map(KINDS.__getitem__)
makers = st.one_of(
    st.recursive(_constant(_scalars | _leaves), _plain_nests, max_leaves=8),
    st.recursive(_constant(_scalars | _leaves), _nests, max_leaves=6),
    st.recursive(_kinds, _nests, max_leaves=4),
)
