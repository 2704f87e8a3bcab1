"""Which encoding a client takes (https://www.rfc-editor.org/rfc/rfc9110#section-12.5.3), and what
the headers say of it."""

from __future__ import annotations

import re

from starlette.responses import Response
from starlette.types import Scope

_Headers = list[tuple[bytes, bytes]]

_GZIP = "gzip", "x-gzip"  # https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1.3
_WEIGHT = re.compile(r"\s*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*", re.ASCII | re.IGNORECASE)
_ENCODING, _VARY = b"content-encoding", b"vary"
ACCEPT_ENCODING = "Accept-Encoding"


def takes_gzip(scope: Scope) -> bool:
    """Returns whether a client takes gzip, and does not like the bytes as they are better."""
    lines = [value for name, value in scope["headers"] if name == b"accept-encoding"]
    weights: dict[str, float] = {}
    for member in b",".join(lines).decode("latin-1").split(","):
        coding, _, parameter = member.partition(";")
        weights.setdefault(coding.strip().lower(), _weight(parameter))
    gzip = next((weights[each] for each in _GZIP if each in weights), weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(parameter: str) -> float:
    """Returns a weight, 0 if it is none."""
    if not parameter.strip():
        return 1.0
    weight = _WEIGHT.fullmatch(parameter)
    return float(weight[1]) if weight else 0.0


def add_vary(response: Response) -> None:
    """Says that another client may get other bytes, for caches."""
    response.raw_headers = negotiated(response.raw_headers, False)


def negotiated(headers: _Headers, is_gzip: bool) -> _Headers:
    """Returns headers that say that another client may get other bytes, and whether these are
    compressed. `Vary` is one line: Starlette's middleware for CORS knows of one alone."""
    fields = [value.decode("latin-1") for name, value in headers if name == _VARY]
    named = {each.strip().lower() for field in fields for each in field.split(",")}
    if not named & {"*", ACCEPT_ENCODING.lower()}:
        line = ", ".join((*fields, ACCEPT_ENCODING)).encode("latin-1")
        headers = [each for each in headers if each[0] != _VARY] + [(_VARY, line)]
    return [*headers, (_ENCODING, b"gzip")] if is_gzip else headers


def can_be_gzip(response: Response) -> bool:
    """Returns whether the body may be compressed: one that is encoded already is left as it is, and
    so is one of an error, or a status that has none."""
    may_be = response.status_code in range(200, 300) and response.status_code not in (204, 205)
    return may_be and all(name != _ENCODING for name, _ in response.raw_headers)
