"""CRC-32 of what was sent, from sums that all clients share.

A client of a channel got a run of entries of which the chain has a running sum. The sum of the run
alone follows from those at its two ends: a CRC is a polynomial over GF(2), and appending bytes to
what it is of multiplies it by a power of x (https://www.rfc-editor.org/rfc/rfc1952#section-8 has
the polynomial, with its bits in reverse).
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
_ONE, _X = 1 << 31, 1 << 30


def _multiply(a: int, b: int) -> int:
    """Returns a product of two polynomials, modulo that of CRC-32."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def _squares() -> list[int]:
    """Returns x, and the squares of it, the square of that and so on."""
    squares = [_X]
    while len(squares) < 32:
        squares.append(_multiply(squares[-1], squares[-1]))
    return squares


_SQUARES = _squares()


# Clients that end together have had runs of the same length.
@lru_cache(1024)
def _shift(size: int) -> int:
    """Returns what a sum is multiplied by when so many bytes follow."""
    power, square = _ONE, 3  # a byte is x to the power of 8
    while size:
        if size & 1:
            power = _multiply(_SQUARES[square & 31], power)
        size >>= 1
        square += 1
    return power


def crc32_combine(first: int, second: int, size: int) -> int:
    """Returns the CRC-32 of two texts, one after the other.

    Args:
        first: That of the first text.
        second: That of the second text.
        size: How many bytes the second text has.
    """
    return _multiply(_shift(size), first) ^ second


def crc32_of_run(before: int, at_start: int, at_end: int, size: int) -> int:
    """Returns the CRC-32 of a text and a run of entries after it.

    Args:
        before: That of the text.
        at_start: The running sum where the run begins.
        at_end: The running sum where it ends.
        size: How many bytes the run has.
    """
    return crc32_combine(before ^ at_start, at_end, size)
