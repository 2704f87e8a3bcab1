"""A field that is text."""

from __future__ import annotations


def checked_text(field: str, value: str | None) -> str | None:
    """Returns a field's text, None if there is none.

    Raises:
        ValueError: it is no text, or not Unicode; the message names the field.
    """
    if value is None:
        return None
    if type(value) is str:
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            pass  # worded by the call below
        else:
            return value
    # Not before it is needed: it loads FastAPI, which a reader may not have.
    from .conversion import text

    return text(field, value)
