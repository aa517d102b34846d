"""Arrays of models by name: listed, put in, cast."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..layers import BatchNorm, GroupNorm
from ..messages import listing

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

Arrays = dict[str, mx.array]
Tree: TypeAlias = "dict[str, mx.array | Tree | list[mx.array | Tree]]"
"""Arrays as MLX nests those of a model or an optimizer."""

# The fields of the config that decide which arrays there are, and their shapes; the first counts.
_DECIDED_BY = {
    r"rpn\.head\.(?:cls_logits|bbox_pred)\.": ("anchor_sizes", "aspect_ratios"),
    r"rpn\.head\.conv\.": ("rpn_conv_depth",),
    r"backbone\.fpn\.": ("returned_layers", "fpn_norm"),
    r"backbone\.": ("norm",),
    r"roi_heads\.box_head\.(?:\d\.)?fc6?\.": ("pool_size",),
    r"roi_heads\.box_(?:head|predictor)\.\d\.": ("cascade_ious",),
    r"roi_heads\.box_head\.": ("box_head_convs", "box_head_norm"),
    r"roi_heads\.box_predictor\.": ("class_agnostic_bbox",),
    r"roi_heads\.mask_(?:head|predictor)\.\d\.": ("cascade_mask_heads",),
    r"roi_heads\.mask_head\.": ("mask_num_convs", "mask_head_norm"),
    r"roi_heads\.svms\.": ("rcnn_scores",),
    r"roi_heads\.keypoint_head\.": ("keypoint_layers",),
}


class Digest(Protocol):
    """One of ``hashlib``'s."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes in."""


class MisfitError(ValueError):
    """Weights that are not a model's, all named that are missing, unexpected or misshaped."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)

    def fields(self) -> list[str]:
        """The fields of the config that may be what is wrong."""
        found = (
            next((own for start, own in _DECIDED_BY.items() if re.match(start, name)), ())
            for name in self.names
        )
        return list(dict.fromkeys(field for own in found for field in own))


def assign(model: nn.Module, weights: Mapping[str, mx.array], name: str) -> None:
    """Put ``weights`` into ``model``, all or none; a MisfitError lists all that is wrong."""
    expected = flat_parameters(model)
    problems = []
    if missing := [k for k in expected if k not in weights]:
        problems.append(f"missing {listing(missing)}")
    if extra := [k for k in weights if k not in expected]:
        problems.append(f"unexpected {listing(extra)}")
    shared = [k for k in expected if k in weights]
    misshaped = [k for k in shared if weights[k].shape != expected[k].shape]
    if misshaped:
        shapes = [f"{k} {weights[k].shape} (expected {expected[k].shape})" for k in misshaped]
        problems.append(f"misshaped {listing(shapes)}")
    packed = (mx.uint32,)  # several weights of a few bits in a number
    for allowed, what in (
        (tuple(DTYPES.values()), "float32, float16 or bfloat16"),
        (packed, "packed bits"),
    ):
        mine = [k for k in shared if (expected[k].dtype in packed) == (allowed is packed)]
        odd = [f"{k} {weights[k].dtype}" for k in mine if weights[k].dtype not in allowed]
        if odd:
            problems.append(f"not {what}: {listing(odd)}")
    if problems:
        text = f"{name} does not fit the model: {'; '.join(problems)}"
        raise MisfitError(text, [*missing, *extra, *misshaped])
    model.load_weights(list(weights.items()), strict=True)


def flat_parameters(module: nn.Module) -> dict[str, mx.array]:
    """All arrays of a module, running statistics included, by dotted name."""
    return flatten(module.parameters())


def cast_weights(model: nn.Module, dtype: str) -> None:
    """Cast convolutions and linears in place; norms keep float32, as a variance of 1e-5 needs."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {tuple(DTYPES)}")
    for module in model.modules():
        own = {k: v for k, v in module.items() if isinstance(v, mx.array)}
        norm = isinstance(
            module, BatchNorm | GroupNorm | nn.BatchNorm | nn.GroupNorm | nn.LayerNorm
        )
        for name, value in own.items():
            if mx.issubdtype(value.dtype, mx.floating):
                module[name] = value.astype(mx.float32 if norm else DTYPES[dtype])


def flatten(tree: object) -> Arrays:
    """The arrays of a tree of dicts and lists by names such as ``rpn.head.conv.0.0.weight``."""
    found = tree_flatten(tree)
    assert isinstance(found, list)
    return dict(found)


def unflatten(arrays: Arrays) -> dict[str, Any]:
    """The tree that :func:`flatten` flattened."""
    return tree_unflatten(list(arrays.items())) if arrays else {}


def add_to_digest(digest: Digest, weights: Mapping[str, mx.array]) -> None:
    """Put weights into a digest of ``hashlib``: of the same ones always the same."""
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        value = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
        digest.update(np.ascontiguousarray(np.array(value, copy=False)).data.cast("B"))
