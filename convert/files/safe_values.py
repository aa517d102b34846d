"""What a pickle may become: inert values, the errors for everything else, and memory limits."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ATOMS = frozenset({str, bytes, int, float, bool, type(None)})
_MAX_DEPTH = 100


class CheckpointError(ValueError):
    """A checkpoint file is damaged, not what it should be, or asks for too much memory."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint names code, or anything else that is not plain data. Nothing was run."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """What a name in a pickle, ``module.name``, becomes."""

    name: str
    # makes the value from the arguments of REDUCE and must check them; ``None`` for a name that may
    # be mentioned but not called
    build: Callable[..., object] | None = None


class Inert:
    """Base of values that stand for something until the whole pickle has been read."""

    __slots__ = ()

    def finish(self) -> object:
        """What this stands for."""
        raise NotImplementedError


class Stateful(Inert):
    """Base of the values on which a pickle may use BUILD."""

    def set_state(self, state: object) -> None:
        """Takes the untrusted ``state`` or raises CheckpointError."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Opaque:
    """Stands for an object of a class this package does not know, or for the class itself."""

    # Training scripts save their arguments and logs beside the tensors. Nothing of such an object
    # is kept but the name of its class: no attribute is read, nothing is looked up, imported or
    # called.
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class ForeignClass(Inert):
    """A class named in a pickle that this package does not know; may be instantiated as nothing."""

    name: str  # ``module.name`` as the pickle spells it

    def finish(self) -> Opaque:
        """Mentioned by itself it is as opaque as an object of it."""
        return Opaque(self.name)


# A class by the spelling everybody keeps to. Of the standard library only argparse's Namespace is
# met in real files; its other classes (subprocess.Popen) are met in hostile ones.
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*")
_STANDARD = frozenset(sys.stdlib_module_names) - {"argparse"}


def foreign_class(module: str, name: str) -> ForeignClass:
    """A stand-in for a name that can only be a class; UnsafeCheckpointError for any other."""
    if _CLASS.fullmatch(name) and module.partition(".")[0] not in _STANDARD:
        return ForeignClass(f"{module}.{name}")
    raise refused(f"{module}.{name}")


def refused(name: str) -> UnsafeCheckpointError:
    """The error for something a pickle names that is not read."""
    return UnsafeCheckpointError(
        f"refused {describe(name)}: only tensors, numbers, strings and plain containers are read "
        "(of a model, save its state_dict())"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Blob(Inert):
    """A long string or bytes of the pickle, left where it is in the file."""

    data: memoryview
    text: bool  # a Python 2 str, latin1

    def finish(self) -> str | bytes:
        """The string itself."""
        return str(self.data, "latin1") if self.text else bytes(self.data)


class Budget:
    """Memory that reading one file may take: ``limit`` bytes for ``what`` the message names."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit = self.left = limit
        self.what = what

    def spend(self, nbytes: int) -> None:
        """Counts ``nbytes``; raises CheckpointError when the limit is passed."""
        self.left -= nbytes
        if self.left < 0:
            raise CheckpointError(
                f"{self.what} would take more than {self.limit} bytes of memory, the most allowed "
                "for a file of this size"
            )


def describe(value: object) -> str:
    """A short, printable text of an untrusted value, for error messages."""
    if isinstance(value, Global | ForeignClass | Opaque):
        value = value.name
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = f"a huge {type(value).__name__}"
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def check_key(key: object) -> None:
    """Refuses dict keys and set members that could make hashing slow or deep."""
    # Tuples recurse in C, and integers are hashed without a secret, modulo a prime: those past it
    # could all collide.
    if type(key) not in _ATOMS or (type(key) is int and abs(key) >= sys.hash_info.modulus):
        raise CheckpointError(f"expected a string or number as key, got {describe(key)}")


def finish(value: object) -> object:
    """Replaces, in place where possible, every :class:`Inert` value by what it stands for."""
    # Objects that were shared stay shared. A CheckpointError: something else is left in it, it
    # holds itself, or it is nested more than 100 deep.
    return _finish(value, 0, {})[0]


def _finish(
    value: object, depth: int, done: dict[int, tuple[object, object, int]]
) -> tuple[object, int]:
    """The finished value and its height: how many containers deep it is."""
    if type(value) in _ATOMS or type(value) in (set, frozenset, Opaque):
        return value, 0
    if id(value) in done:
        _, result, height = done[id(value)]
    else:
        result, height = _finish_new(value, depth, done)
        done[id(value)] = (value, result, height)  # keeps value alive: its id is not used again
    if depth + height > _MAX_DEPTH:
        raise CheckpointError(f"expected containers at most {_MAX_DEPTH} deep, got deeper ones")
    return result, height


def _finish_new(
    value: Any, depth: int, done: dict[int, tuple[object, object, int]]
) -> tuple[object, int]:
    if isinstance(value, Inert):
        return value.finish(), 0
    if type(value) not in (dict, list, tuple):
        raise CheckpointError(
            f"expected tensors, numbers, strings and containers, got {describe(value)}"
        )
    if depth == _MAX_DEPTH:
        raise CheckpointError(
            f"expected containers at most {_MAX_DEPTH} deep, got deeper ones or one in itself"
        )
    height, made = 0, []
    for key, item in value.items() if type(value) is dict else enumerate(value):
        result, below = _finish(item, depth + 1, done)
        height = max(height, below)
        if type(value) is tuple:
            made.append(result)
        else:
            value[key] = result
    return (tuple(made) if type(value) is tuple else value), height + 1
