"""The rename engine: an ordered table of rules turns a checkpoint's keys into ours.

A rule is data: a pattern that must match a whole key, what replaces it (``None`` drops the key),
and how the array's layout changes. Every source key must match a rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx


class Rule(NamedTuple):
    """``pattern`` (a regular expression for a whole key), ``target`` (or ``None``), ``layout``.

    Layouts: ``"same"``; ``"conv"`` (O, I, kh, kw) -> (O, kh, kw, I); ``"deconv"`` (I, O, kh, kw) ->
    (O, kh, kw, I); ``"flat"`` (units, C * ph * pw) -> (units, ph * pw * C), the first linear after
    RoI pooling. Arrays of other than 4 axes (biases, norms) stay as they are.
    """

    pattern: str
    target: str | None
    layout: str = "same"


class Renamed(NamedTuple):
    """``weights`` by our keys, and the source keys that were ``dropped``."""

    weights: dict[str, mx.array]
    dropped: list[str]


def rename(
    source: Mapping[str, mx.array], rules: Sequence[Rule], pool_size: tuple[int, int] = (7, 7)
) -> Renamed:
    """Apply a table of rules to a state dict.

    Args:
        source: arrays by the source's keys, in its layout.
        rules: the first one that matches a key applies.
        pool_size: (ph, pw) of the RoI pooling, for the layout ``"flat"``.

    Returns:
        The renamed weights and the dropped keys.

    Raises:
        ValueError: keys without a rule, or two keys for one target; all offenders are listed.
    """
    weights: dict[str, mx.array] = {}
    origin: dict[str, str] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    for key, value in source.items():
        found = ((rule, re.fullmatch(rule.pattern, key)) for rule in rules)
        rule, match = next(((r, m) for r, m in found if m), (None, None))
        if rule is None or match is None:
            unknown.append(key)
            continue
        if rule.target is None:
            dropped.append(key)
            continue
        target = match.expand(rule.target)
        if target in weights:
            raise ValueError(f"{key!r} and {origin[target]!r} both stand for {target!r}")
        origin[target] = key
        weights[target] = _relayout(value, rule.layout, pool_size, key)
    if unknown:
        raise ValueError(f"no rule for {listing(unknown)}")
    return Renamed(weights, dropped)


def _relayout(value: mx.array, layout: str, pool: tuple[int, int], key: str) -> mx.array:
    if layout == "same":
        return value
    if layout == "flat":
        height, width = pool
        if value.ndim != 2 or value.shape[1] % (height * width):
            raise ValueError(
                f"{key!r} has shape {value.shape}: expected (units, C * {height} * {width})"
            )
        return (
            value.reshape(value.shape[0], -1, height, width)
            .transpose(0, 2, 3, 1)
            .reshape(value.shape)
        )
    if value.ndim != 4:
        return value
    return mx.contiguous(value.transpose(*((0, 2, 3, 1) if layout == "conv" else (1, 2, 3, 0))))


def state_dict_of(content: Any, name: str) -> dict[str, mx.array]:
    """The tensors of a checkpoint, out of the wrappers people put around them.

    Args:
        content: what the file held: a state dict, or a dict with one under ``model``,
            ``state_dict``, ``model_state_dict`` or ``ema``. All keys may start with ``module.``.
        name: of the file, for errors.

    Returns:
        Arrays by key.

    Raises:
        ValueError: no state dict in it.
    """
    for wrapper in ("model", "state_dict", "model_state_dict", "ema"):
        inner = content.get(wrapper) if isinstance(content, dict) else None
        if isinstance(inner, dict):
            content = inner
    if not isinstance(content, dict) or not content:
        what = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{name}: holds {what}, expected a state dict (tensors by name)")
    wrong = [
        str(k) for k, v in content.items() if not isinstance(v, mx.array) or not isinstance(k, str)
    ]
    if wrong:
        raise ValueError(f"{name}: expected a state dict, but no tensor is under {listing(wrong)}")
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if wrapped else key: v for key, v in content.items()}


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names for an error message: the first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in list(names)[:most]) + more
