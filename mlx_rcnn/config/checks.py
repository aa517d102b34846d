"""Rules of config fields; each raises TypeError or ValueError naming field, value and rule."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

NORMS = ("batch", "frozen", "group")


def freeze_sequences(config: Any) -> None:
    """JSON and users give lists: fields hold tuples, so that a config is hashable."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list | tuple):
            deep = tuple(tuple(v) if isinstance(v, list | tuple) else v for v in value)
            object.__setattr__(config, field.name, deep)


_LARGEST = 2**31 - 1


def check_integer(config: Any, name: str, low: int) -> None:
    """An integer of at least ``low``, and of 32 bits, as MLX's shapes are."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected an integer, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {low}")
    if value > _LARGEST:
        raise ValueError(f"{name}={value!r}: expected an integer of at most {_LARGEST}")


def check_number(config: Any, name: str, low: float, high: float = float("inf")) -> None:
    """A number in [low, high]."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: expected a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: expected a number in [{low:g}, {high:g}]")


def check_row(config: Any, name: str, length: int | None = None, nested: bool = False) -> None:
    """A tuple of finite numbers, ``length`` of them; ``nested`` allows tuples among them."""
    value = getattr(config, name)
    rule = "expected a tuple of numbers" if length is None else f"expected {length} numbers"
    if not isinstance(value, tuple) or len(value) != (length or len(value)):
        raise ValueError(f"{name}={value!r}: {rule}")
    for item in value:
        if isinstance(item, tuple):
            if nested:
                continue
            raise ValueError(f"{name}={value!r}: {rule}")
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise TypeError(f"{name}={value!r}: {rule}, got {item!r}")
        if not -float("inf") < item < float("inf"):
            raise ValueError(f"{name}={value!r}: expected finite numbers, got {item!r}")


def check_sizes(config: Any, name: str, whole: bool = False) -> None:
    """A positive number or a (nested) sequence of at least one."""
    value = getattr(config, name)
    kind: Any = int if whole else (int, float)

    def check(v: Any) -> None:
        if isinstance(v, tuple):
            if len(v) == 0:
                raise ValueError(f"{name}={value!r}: expected sizes, got an empty sequence")
            for item in v:
                check(item)
        elif isinstance(v, bool) or not isinstance(v, kind):
            raise TypeError(f"{name}={value!r}: expected positive numbers, got {v!r}")
        elif not 0 < v < float("inf"):
            raise ValueError(f"{name}={value!r}: expected positive numbers, got {v!r}")

    check(value)


def check_choice(config: Any, name: str, allowed: tuple[Any, ...]) -> None:
    """One of a few values, of the same type."""
    value = getattr(config, name)
    if not any(type(value) is type(v) and value == v for v in allowed):
        raise ValueError(f"{name}={value!r}: expected one of {allowed}")
