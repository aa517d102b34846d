"""One-line messages: long lists said shortly."""

from __future__ import annotations

from collections.abc import Sequence


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names for an error message: the first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in list(names)[:most]) + more
