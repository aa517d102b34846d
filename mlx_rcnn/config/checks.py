"""Rules of config fields; each raises TypeError or ValueError naming field, value and rule.

A rule stands with its field, ``name: int = setting(7, Whole(1))``, and :func:`check_fields` holds
all of them; what ties several fields together is left to their class.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from ..messages import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NORMS = ("batch", "frozen", "group")
_LARGEST = 2**31 - 1
T = TypeVar("T")


class Rule(Protocol):
    """What a field's value must be."""

    def check(self, config: object, name: str) -> None:
        """Raise TypeError or ValueError if the field is against it."""


@dataclass(frozen=True)
class Whole:
    """An integer of ``low`` to ``high``."""

    low: int = 1
    high: int = _LARGEST

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        check_integer(config, name, self.low, self.high)


@dataclass(frozen=True)
class Number:
    """A number in [low, high]."""

    low: float = 0.0
    high: float = float("inf")

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        check_number(config, name, self.low, self.high)


@dataclass(frozen=True)
class Positive:
    """A finite number above 0."""

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        check_sizes(config, name)
        check_number(config, name, 0.0)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    allowed: tuple[object, ...]

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        check_choice(config, name, self.allowed)


@dataclass(frozen=True)
class OneOf:
    """One of a few whole numbers; the nearest is named."""

    allowed: tuple[int, ...]

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        check_integer(config, name, -_LARGEST)
        value = getattr(config, name)
        if value not in self.allowed:
            near = min(self.allowed, key=lambda item: abs(item - value))
            *most, last = map(str, self.allowed)
            raise ValueError(
                f"{name}={value!r}: expected {', '.join(most)} or {last}; the nearest is {near}"
            )


@dataclass(frozen=True)
class Row:
    """A tuple of finite numbers, ``length`` of them; ``nested`` allows tuples among them."""

    length: int | None = None
    nested: bool = False

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        check_row(config, name, self.length, self.nested)


@dataclass(frozen=True)
class Sizes:
    """A positive number or a (nested) sequence; ``row`` is what a sequence must be besides."""

    row: Row | None = None
    whole: bool = False
    lone: bool = False  # allows one number in place of a sequence
    none: bool = False  # allows ``None``

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        value = getattr(config, name)
        if value is None and self.none:
            return
        if self.row is not None and self.row.length is not None:
            self.row.check(config, name)
        check_sizes(config, name, self.whole)
        if self.row is not None and not (self.lone and not isinstance(value, tuple)):
            self.row.check(config, name)


@dataclass(frozen=True)
class Names:
    """A sequence of strings, as many as the field ``count`` says, or ``None``."""

    count: str
    note: str = ""

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        value, count = getattr(config, name), getattr(config, self.count)
        if value is None:
            return
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise TypeError(f"{name}={value!r}: expected a sequence of strings")
        if len(value) != count:
            raise ValueError(
                f"{name} has {len(value)} entries: expected {self.count}={count}{self.note}"
            )


@dataclass(frozen=True)
class Rows:
    """A sequence of rows of ``length`` positive numbers."""

    length: int

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        value = getattr(config, name)
        if not isinstance(value, tuple) or not all(
            isinstance(row, tuple) and len(row) == self.length for row in value
        ):
            raise ValueError(f"{name}={value!r}: expected rows of {self.length} numbers")
        check_sizes(config, name)


@dataclass(frozen=True)
class Thresholds:
    """A number in [0, 1], or one a class: the field ``count`` less one, for the background."""

    count: str

    def check(self, config: object, name: str) -> None:
        """See :class:`Rule`."""
        value, classes = getattr(config, name), getattr(config, self.count) - 1
        if not isinstance(value, tuple):
            check_number(config, name, 0.0, 1.0)
            return
        check_row(config, name)
        if len(value) != classes:
            raise ValueError(
                f"{name} has {len(value)} entries: expected one number, or {classes}, one a class "
                "without the background"
            )
        if not all(0 <= v <= 1 for v in value):
            raise ValueError(f"{name}={value!r}: expected numbers in [0, 1]")


SWITCH, SHARE = Choice((True, False)), Number(0.0, 1.0)
NORM, NORM_OR_NONE = Choice(NORMS), Choice((None, *NORMS))


@overload
def setting(*, rule: Rule) -> Any: ...  # as dataclasses.field: of any type, to be given
@overload
def setting(default: T, rule: Rule | None = None) -> T: ...
def setting(default: object = MISSING, rule: Rule | None = None) -> object:
    """A dataclass field with its rule, kept in its metadata; without a default it must be given."""
    return field(default=default, metadata={} if rule is None else {"rule": rule})


def check_fields(config: DataclassInstance) -> None:
    """Freeze the sequences of a config's fields, and hold each field to its rule."""
    freeze_sequences(config)
    for item in fields(config):
        if (rule := item.metadata.get("rule")) is not None:
            rule.check(config, item.name)


def freeze_sequences(config: DataclassInstance) -> None:
    """JSON and users give lists: fields hold tuples, so that a config is hashable."""
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, list | tuple):
            deep = tuple(tuple(v) if isinstance(v, list | tuple) else v for v in value)
            object.__setattr__(config, item.name, deep)


def check_integer(config: object, name: str, low: int, high: int = _LARGEST) -> None:
    """An integer of ``low`` to ``high``, by default of 32 bits, as MLX's shapes are."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected an integer, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {low}")
    if value > high:
        raise ValueError(f"{name}={value!r}: expected an integer of at most {high}")


def check_number(config: object, name: str, low: float, high: float = float("inf")) -> None:
    """A number in [low, high]."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: expected a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: expected a number in [{low:g}, {high:g}]")


def check_row(config: object, name: str, length: int | None = None, nested: bool = False) -> None:
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


def check_sizes(config: object, name: str, whole: bool = False) -> None:
    """A positive number or a (nested) sequence of at least one."""
    value = getattr(config, name)
    kind = (int,) if whole else (int, float)

    def check(v: object) -> None:
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


def check_choice(config: object, name: str, allowed: tuple[object, ...]) -> None:
    """One of a few values, of the same type."""
    value = getattr(config, name)
    if not any(type(value) is type(v) and value == v for v in allowed):
        raise ValueError(f"{name}={value!r}: expected one of {allowed}{nearest(value, allowed)}")
