"""Arrays of models by name: listed, put in, cast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..layers import BatchNorm, GroupNorm
from ..messages import listing

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

Arrays = dict[str, mx.array]


def assign(model: nn.Module, weights: Mapping[str, mx.array], name: str) -> None:
    """Put ``weights`` into ``model``, all of them or none.

    Args:
        model: its parameters give the names and shapes expected.
        weights: floating-point arrays by parameter name.
        name: where they come from, for errors.

    Raises:
        ValueError: missing, unexpected, misshaped or non-floating weights, all listed.
    """
    expected = flat_parameters(model)
    problems = []
    if missing := [k for k in expected if k not in weights]:
        problems.append(f"missing {listing(missing)}")
    if extra := [k for k in weights if k not in expected]:
        problems.append(f"unexpected {listing(extra)}")
    shared = [k for k in expected if k in weights]
    shapes = [
        f"{k} {weights[k].shape} (expected {expected[k].shape})"
        for k in shared
        if weights[k].shape != expected[k].shape
    ]
    if shapes:
        problems.append(f"misshaped {listing(shapes)}")
    dtypes = [f"{k} {weights[k].dtype}" for k in shared if weights[k].dtype not in DTYPES.values()]
    if dtypes:
        problems.append(f"not float32, float16 or bfloat16: {listing(dtypes)}")
    if problems:
        raise ValueError(f"{name} does not fit the model: {'; '.join(problems)}")
    model.load_weights(list(weights.items()), strict=True)


def flat_parameters(module: nn.Module) -> dict[str, mx.array]:
    """All arrays of a module, running statistics included, by dotted name."""
    return dict(cast(Any, tree_flatten(module.parameters())))


def cast_weights(model: nn.Module, dtype: str) -> None:
    """Cast the convolutions and linears; norms keep float32, as a variance of 1e-5 needs it.

    Args:
        model: changed in place.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ValueError: another dtype.
    """
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


def flatten(tree: Any) -> Arrays:
    """The arrays of a tree by name, such as ``roi_heads.box_head.fc6.weight``.

    Args:
        tree: of dicts and lists.

    Returns:
        A new dict.
    """
    found: Any = tree_flatten(tree)
    return dict(found)


def unflatten(arrays: Arrays) -> Any:
    """What :func:`flatten` flattened.

    Args:
        arrays: by name.

    Returns:
        A tree.
    """
    return tree_unflatten(list(arrays.items())) if arrays else {}
