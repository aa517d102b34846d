"""One-line messages: long lists said shortly, errors on one line, the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names for an error message: the first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in list(names)[:most]) + more


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: object, known: Iterable[object]) -> str:
    """``; did you mean 'x'?`` for the known name that is most like ``name``; empty without one."""
    if not isinstance(name, str):
        return ""
    by_lower = {item.lower(): item for item in known if isinstance(item, str)}
    near = [by_lower[n] for n in difflib.get_close_matches(name.lower(), by_lower, 1)]
    return f"; did you mean {near[0]!r}?" if near else ""
