"""Values of an mmdetection config: looked up by place, and read as what a field needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def at(values: Any, place: str) -> Any:
    """What stands at a place such as ``model.rpn_head.type``; of a list of stages at the first."""
    for name in place.split("."):
        if isinstance(values, list | tuple) and values and isinstance(values[0], Mapping):
            values = values[0]  # of a cascade's stages the first: see _stages for what differs
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def number(value: Any) -> float | None:
    """A finite number; ``None`` for anything else, as all of these."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if ok else None


def numbers(value: Any) -> tuple[float, ...] | None:
    """A row of them."""
    ok = isinstance(value, list | tuple) and value and all(number(v) is not None for v in value)
    return tuple(value) if ok else None


def count(value: Any) -> int | None:
    """A whole number of at least 0."""
    return value if type(value) is int and value >= 0 else None


def whole(value: Any) -> int | None:
    """A whole number of at least 1."""
    return count(value) or None


def wholes(value: Any) -> tuple[int, ...] | None:
    """A row of them."""
    ok = isinstance(value, list | tuple) and value and all(whole(v) for v in value)
    return tuple(value) if ok else None


def pair(value: Any) -> tuple[int, int] | None:
    """Two of them, or one for both."""
    sides = wholes(value if isinstance(value, list | tuple) else (value, value))
    return (sides[0], sides[1]) if sides and len(sides) == 2 else None


def share(value: Any) -> float | None:
    """A number in [0, 1]."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def size(value: Any) -> float | None:
    """A number of at least 0."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def switch(value: Any) -> bool | None:
    """True or false."""
    return value if isinstance(value, bool) else None


def length(value: Any) -> int | None:
    """How many entries a row has."""
    return len(value) if isinstance(value, list | tuple) and value else None


def inverse(value: Any) -> tuple[float, ...] | None:
    """Deviations of regressed boxes are the inverse of torchvision's weights."""
    found = numbers(value)
    if found is None or len(found) != 4 or any(v <= 0 for v in found):
        return None
    return tuple(round(1 / v, 10) for v in found)
