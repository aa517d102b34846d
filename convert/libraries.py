"""The libraries whose checkpoints are read, and telling which one a state dict is of."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import mlx.core as mx

from . import torchvision
from .recognised import Recognised
from .state_dict import without_prefix

LIBRARIES: dict[str, ModuleType] = {"torchvision": torchvision}
"""Each has ``looks_like(state)``, by a key only it has, and ``recognise(state)``."""


def recognise(state: Mapping[str, mx.array], library: str = "auto") -> Recognised:
    """Tell from keys and shapes what a state dict belongs to.

    Args:
        state: arrays by the library's keys, in its layout.
        library: a key of ``LIBRARIES``, or ``"auto"``. Default: ``"auto"``.

    Returns:
        What to build and how to fill it.

    Raises:
        ValueError: no network this package knows; the message says what it looks like.
    """
    if library != "auto":
        found: Recognised = LIBRARIES[library].recognise(state)
        return found
    for module in LIBRARIES.values():
        if module.looks_like(state):
            return module.recognise(state)
    return torchvision.recognise(state)  # whose message says what is missing


def unprefixed(state: dict[str, mx.array]) -> dict[str, mx.array]:
    """A state dict by the keys of its library, which a common prefix may hide.

    Args:
        state: arrays by the library's keys, or by those under one prefix, as a network that is
            part of another has them (``detector.backbone.body...``).

    Returns:
        ``state`` itself if a library knows its keys, or none does without the prefix either.
    """
    inner: dict[str, mx.array] | None = state
    while inner is not None:
        if any(module.looks_like(inner) for module in LIBRARIES.values()):
            return inner
        inner = without_prefix(inner)
    return state
