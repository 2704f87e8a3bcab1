"""Explores small worlds: every short script of a generator, its client, its server and time.

A world (`scripts`) is played by a clock that jumps (`stage`, `clock`), and what came of it is held
against a model of what must come of it (`model`). `search` finds the worlds that come out wrong,
and makes them smaller.
"""
