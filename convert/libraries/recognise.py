"""The libraries whose checkpoints are read, and telling which one a state dict is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import mlx.core as mx

from ..files.state_dict import without_prefix
from ..rename import Rule
from . import detectron2, mmdetection, torchvision
from .architecture import NO_HINTS, Hints, Recognised

LIBRARIES: dict[str, ModuleType] = {
    "detectron2": detectron2,
    "mmdetection": mmdetection,
    "torchvision": torchvision,
}
"""Each has ``looks_like(state)``, by a key only it has, and ``recognise(state, hints)``."""


def recognise(
    state: Mapping[str, mx.array], library: str = "auto", hints: Hints = NO_HINTS
) -> Recognised:
    """Tell from keys and shapes what a state dict belongs to.

    Args:
        state: arrays by the library's keys, in its layout.
        library: a key of ``LIBRARIES``, or ``"auto"``. Default: ``"auto"``.
        hints: what the file says beside its tensors. Default: nothing.

    Returns:
        What to build and how to fill it.

    Raises:
        ValueError: a style for another library than mmdetection, or no network this package
            knows; the message says what it looks like.
    """
    if library == "auto":
        library = next((k for k, v in LIBRARIES.items() if v.looks_like(state)), "torchvision")
    if hints.style is not None and library != "mmdetection":
        raise ValueError(f"style={hints.style!r} is for mmdetection, got keys of {library}")
    found: Recognised = LIBRARIES[library].recognise(state, hints)
    return found


def rules_of(library: str, use_fpn: bool) -> Sequence[Rule]:
    """The table of rules for a library's models with a feature pyramid, or for those without.

    Args:
        library: a key of ``LIBRARIES``.
        use_fpn: a field of the model's config.

    Returns:
        The rules; those with a pyramid where the library has no others.
    """
    module = LIBRARIES[library]
    rules: Sequence[Rule] = module.RULES
    return rules if use_fpn else getattr(module, "ONE_MAP_RULES", rules)


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
