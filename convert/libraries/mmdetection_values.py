"""Values of an mmdetection config: looked up by place, and read as what a field needs."""

from __future__ import annotations

import math
from collections.abc import Mapping


def at(values: object, place: str) -> object:
    """What stands at a place such as ``model.rpn_head.type``; of a list of stages at the first."""
    for name in place.split("."):
        if isinstance(values, list | tuple) and values and isinstance(values[0], Mapping):
            values = values[0]  # of a cascade's stages the first: see _stages for what differs
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def number(value: object) -> float | None:
    """A finite number; ``None`` for anything else, as all of these."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def numbers(value: object) -> tuple[float, ...] | None:
    """A row of them."""
    row = value if isinstance(value, list | tuple) else ()
    return tuple(row) if row and all(number(v) is not None for v in row) else None


def count(value: object) -> int | None:
    """A whole number of at least 0."""
    return value if type(value) is int and value >= 0 else None


def whole(value: object) -> int | None:
    """A whole number of at least 1."""
    return count(value) or None


def wholes(value: object) -> tuple[int, ...] | None:
    """A row of them."""
    row = value if isinstance(value, list | tuple) else ()
    return tuple(row) if row and all(whole(v) for v in row) else None


def pair(value: object) -> tuple[int, int] | None:
    """Two of them, or one for both."""
    sides = wholes(value if isinstance(value, list | tuple) else (value, value))
    return (sides[0], sides[1]) if sides and len(sides) == 2 else None


def share(value: object) -> float | None:
    """A number in [0, 1]."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def size(value: object) -> float | None:
    """A number of at least 0."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def switch(value: object) -> bool | None:
    """True or false."""
    return value if isinstance(value, bool) else None


def length(value: object) -> int | None:
    """How many entries a row has."""
    return len(value) if isinstance(value, list | tuple) and value else None


def inverse(value: object) -> tuple[float, ...] | None:
    """Deviations of regressed boxes are the inverse of torchvision's weights."""
    found = numbers(value)
    if found is None or len(found) != 4 or any(v <= 0 for v in found):
        return None
    return tuple(round(1 / v, 10) for v in found)
