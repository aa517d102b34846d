"""The libraries whose checkpoints are read, and telling which one a state dict is of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import ModuleType

import mlx.core as mx

from mlx_rcnn.messages import listing

from ..rename import Rule
from . import detectron2, mmdetection, torchvision
from .architecture import NO_HINTS, Hints, Recognised
from .names import with_names

LIBRARIES: dict[str, ModuleType] = {
    "detectron2": detectron2,
    "mmdetection": mmdetection,
    "torchvision": torchvision,
}
"""Each has ``looks_like(state)``, by a key only it has, and ``recognise(state, hints)``."""


def recognise(
    state: Mapping[str, mx.array], library: str = "auto", hints: Hints = NO_HINTS
) -> Recognised:
    """Tell from keys and shapes what to build for a state dict; ValueError if it is unknown."""
    library = library_of(state, library)
    if hints.style is not None and library != "mmdetection":
        raise ValueError(f"style={hints.style!r} is for mmdetection, got keys of {library}")
    found: Recognised = LIBRARIES[library].recognise(state, hints)
    return with_names(found, hints)


def library_of(state: Mapping[str, mx.array], library: str = "auto") -> str:
    """The library that a state dict's keys are of; torchvision where none knows them."""
    if library != "auto":
        return library
    return next((k for k, v in LIBRARIES.items() if v.looks_like(state)), "torchvision")


def rules_of(library: str, use_fpn: bool) -> Sequence[Rule]:
    """The rules for a library's models with a pyramid, or, where it has such, for those without."""
    module = LIBRARIES[library]
    rules: Sequence[Rule] = module.RULES
    return rules if use_fpn else getattr(module, "ONE_MAP_RULES", rules)


def unprefixed(state: dict[str, mx.array]) -> dict[str, mx.array]:
    """The part of a state dict that a library knows, without the prefix that hides its keys."""
    # A network that is part of another has keys such as ``detector.backbone.body...``. Other keys
    # may lie beside those of the prefix, as a metric's or an average's do: they are left out.
    if knows(state):
        return state
    found: list[str] = []
    for prefix in _prefixes(state):
        within = any(prefix.startswith(other) for other in found)
        if not within and knows(_below(state, prefix)):
            found.append(prefix)
    if len(found) > 1:
        raise ValueError(
            f"holds several networks, under {listing(found)}: say which with state={found[0]!r} "
            f"(--state {found[0]})"
        )
    return _below(state, found[0]) if found else state


def knows(state: Mapping[str, mx.array]) -> bool:
    """Whether a library's detectors have such keys."""
    return any(module.looks_like(state) for module in LIBRARIES.values())


def _prefixes(state: Mapping[str, mx.array]) -> list[str]:
    """All that keys start with, up to a dot, the shortest first."""
    prefixes = {
        key[: place + 1] for key in state for place, letter in enumerate(key) if letter == "."
    }
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


def _below(state: Mapping[str, mx.array], prefix: str) -> dict[str, mx.array]:
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


_PARTS = {
    "torchvision": ("backbone.", "rpn.", "roi_heads."),
    "detectron2": ("backbone.", "proposal_generator.", "roi_heads."),
    "mmdetection": ("backbone.", "neck.", "rpn_head.", "roi_head."),
}
"""The modules of each library's R-CNNs."""

_PROFILES = ("total_ops", "total_params")
"""Counts that the profiler thop leaves in every module."""


def beside(state: Mapping[str, mx.array], library: str) -> list[str]:
    """The keys outside the modules of a library's network, which no rule of it renames."""
    tables = {*rules_of(library, True), *rules_of(library, False)}
    parts, rules = _PARTS[library], [re.compile(rule.pattern) for rule in tables]
    return [
        key
        for key in state
        if key.rpartition(".")[2] in _PROFILES
        or (not key.startswith(parts) and not any(rule.fullmatch(key) for rule in rules))
    ]
