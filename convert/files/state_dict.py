"""Finds the state dict in what a checkpoint file held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_rcnn.messages import listing

_WRAPPERS = (
    "model", "state_dict", "model_state_dict", "ema", "model_ema", "ema_state_dict", "module",
)  # fmt: skip
"""The names people save weights under. Where a file holds several, the first of these is read."""

_PREFIXES = ("module.", "model.")
"""Of DataParallel and of wrapping modules."""


def state_dict_of(content: Any, name: str) -> dict[str, mx.array]:
    """The tensors of a checkpoint, out of the wrappers people put around them.

    Args:
        content: what the file held: a state dict, or a dict with one under ``model``,
            ``state_dict``, ``model_state_dict``, ``ema`` and their like, in any order and depth.
            All keys may start with ``module.`` or ``model.``, several times. What is no tensor
            (an optimizer's state, the epoch) is passed over.
        name: of the file, for errors.

    Returns:
        Arrays by key.

    Raises:
        ValueError: no state dict in it.
    """
    while isinstance(content, dict):
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        what = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{name}: holds {what}, expected a state dict (tensors by name)")
    state = {key: value for key, value in content.items() if isinstance(value, mx.array)}
    if wrong := [str(key) for key in state if not isinstance(key, str)]:
        raise ValueError(f"{name}: expected a state dict, but no name is {listing(wrong)}")
    if not state:
        raise ValueError(
            f"{name}: expected a state dict, but no tensor is under {listing(list(content))}"
        )
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def without_prefix(state: Mapping[str, mx.array]) -> dict[str, mx.array] | None:
    """The same without the first part that all keys share, as ``detector.``; ``None``: none is."""
    first = {key.partition(".")[0] for key in state}
    if len(first) != 1 or not all("." in key for key in state):
        return None
    return {key.partition(".")[2]: value for key, value in state.items()}
