"""Parameter trees as flat dictionaries and back, with their types."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

Arrays = dict[str, mx.array]


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
