"""Writes the pages of the reference, `docs/reference/`, from signatures and docstrings.

A page lists its names as comments, in the order that it has them:

    <!-- sserpent.channels.Channels -->

`python tools/reference.py` writes what each is below it, and `--check` fails if that is not what is
there. It reads the pure-Python twin, whose signatures have their types.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
REFERENCE = PROJECT / "docs" / "reference"
_ENTRY = re.compile(r"^<!-- (sserpent\.[\w.]+) -->\n.*?(?=^<!-- sserpent\.|\Z)", re.DOTALL | re.M)
_SECTION = re.compile(
    r"^(Args|Attributes|Raises|Returns|Yields|\w+ raises):\n((?:    .*\n|\n)+)", re.M
)
_TITLES = {"Args": "Parameters"}
# Its members are Starlette's, and its options are on their page.
_WITHOUT_MEMBERS = {"sserpent.EventSourceResponse"}
_WIDTH = 88


def with_entries(page: str) -> str:
    """Returns a page with what its names are now."""
    return _ENTRY.sub(lambda found: f"<!-- {found[1]} -->\n{''.join(_entry(found[1]))}", page)


def _entry(path: str) -> Iterator[str]:
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    yield f"\n## {name}\n\n"
    if inspect.isclass(found):
        yield from _class(path, name, found)
    elif callable(found) and inspect.isroutine(found):
        yield from _function(name, found)
    else:
        yield _constant(name, found)


def _class(path: str, name: str, cls: type) -> Iterator[str]:
    docstring = inspect.getdoc(cls) or ""
    yield _code(f"class {name}{_signature_of_class(cls, docstring)}")
    yield _prose(docstring)
    if path in _WITHOUT_MEMBERS:
        return
    for member, value in _members(cls):
        yield f"### {name}.{member}\n\n"
        if isinstance(value, (property, functools.cached_property)):
            getter = value.fget if isinstance(value, property) else value.func
            annotation = _plain(getattr(getter, "__annotations__", {}).get("return", ""))
            yield _code(f"{member}: {annotation}" if annotation else member)
            yield _prose(inspect.getdoc(value) or "")
        else:
            yield from _function(member, value)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that have a docstring, in the order of the source."""
    seen = set()
    for owner in cls.__mro__:
        if not owner.__module__.startswith("sserpent") or owner.__module__.endswith("response"):
            continue
        for name, value in owner.__dict__.items():
            documented = (
                value if not isinstance(value, (classmethod, staticmethod)) else value.__func__
            )
            if name.startswith("_") or name in seen or not getattr(documented, "__doc__", None):
                continue
            is_property = isinstance(value, (property, functools.cached_property))
            if is_property or inspect.isroutine(documented):
                seen.add(name)
                yield name, documented


def _function(name: str, function: Any) -> Iterator[str]:
    unwrapped = inspect.unwrap(function)
    word = "async def" if inspect.iscoroutinefunction(unwrapped) else "def"
    yield _code(f"{word} {name}{_signature(inspect.signature(function), skip_self=True)}")
    yield _prose(inspect.getdoc(function) or "")


def _constant(name: str, value: Any) -> str:
    """The line that makes a constant, with the comment of `#:` above it."""
    for file in sorted((PROJECT / "python" / "sserpent").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        found = re.search(rf"^((?:#: ?.*\n)*)({name}(?:: | = ).*)", source, re.M)
        if found:
            return _code(found[2]) + _prose(re.sub(r"^#: ?", "", found[1], flags=re.M))
    return _code(f"{name}: {type(value).__name__}")


def _signature_of_class(cls: type, docstring: str) -> str:
    if issubclass(cls, Exception):
        return f"({cls.__bases__[0].__name__})"
    if "Args:" not in docstring and "arguments" not in docstring:
        return ""  # of a class that users do not call
    return _signature(inspect.signature(cls), skip_self=False, returns=False)


def _signature(signature: inspect.Signature, *, skip_self: bool, returns: bool = True) -> str:
    parameters = list(signature.parameters.values())
    if skip_self and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    parts: list[str] = []
    for before, parameter in zip([None, *parameters], parameters, strict=False):
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        if keyword and (before is None or before.kind < parameter.VAR_POSITIONAL):
            parts.append("*")
        if before and before.kind is before.POSITIONAL_ONLY is not parameter.kind:
            parts.append("/")
        parts.append(_parameter(parameter))
    empty = signature.return_annotation is signature.empty
    result = "" if empty or not returns else f" -> {_plain(signature.return_annotation)}"
    line = f"({', '.join(parts)}){result}"
    if len(line) < _WIDTH - 20 or not parts:
        return line
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.kind is parameter.VAR_POSITIONAL:
        text = f"*{text}"
    elif parameter.kind is parameter.VAR_KEYWORD:
        text = f"**{text}"
    if parameter.annotation is not parameter.empty:
        text += f": {_plain(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        equals = " = " if parameter.annotation is not parameter.empty else "="
        default = parameter.default
        shown = repr(default) if isinstance(default, (int, float, str, bytes)) else str(default)
        text += equals + ("..." if shown.startswith("<") else shown)
    return text


def _plain(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else str(inspect.formatannotation(annotation))


def _code(text: str) -> str:
    return f"```py\n{text}\n```\n\n"


def _prose(docstring: str) -> str:
    """A docstring of Google's form as Markdown."""
    if not docstring:
        return ""
    text = docstring.rstrip() + "\n"
    return _SECTION.sub(lambda found: _section(found[1], found[2]), text).rstrip() + "\n\n"


def _section(kind: str, body: str) -> str:
    title = f"**{_TITLES.get(kind, kind)}**\n\n"
    body = textwrap.dedent(body).strip("\n")
    if kind in ("Returns", "Yields"):
        return f"{title}{body}\n\n"
    items = re.split(r"\n(?=\S)", body)
    lines = []
    for item in items:
        name, colon, rest = item.partition(":")
        rest = " ".join(rest.split())
        lines.append(f"- `{name.strip('`')}`: {rest}" if colon else f"- {item}")
    return title + "\n".join(lines) + "\n\n"


def main() -> None:
    outdated = []
    for page in sorted(REFERENCE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        current = with_entries(text).rstrip() + "\n"
        if current != text:
            outdated.append(page.relative_to(PROJECT).as_posix())
            if "--check" not in sys.argv:
                page.write_text(current, encoding="utf-8")
    if outdated and "--check" in sys.argv:
        sys.exit(f"run `python tools/reference.py`: {', '.join(outdated)}")


if __name__ == "__main__":
    os.environ["SSERPENT_PURE"] = "1"
    sys.path.insert(0, str(PROJECT / "python"))
    main()
