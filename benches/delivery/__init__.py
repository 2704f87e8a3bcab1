"""Whole streams, in one process and through real servers."""
