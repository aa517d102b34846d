"""Kernels of our own for a GPU; what each computes is computed in plain MLX too, in ``ops``."""

from .launch import (
    DETERMINISTIC,
    adding_in_order,
    adds_by_atomics,
    backend,
    fixed_order,
    in_fixed_order,
    switch,
)
from .nms import suppress, suppressible
from .plain import plain, plain_operations
from .roi_align import Plan, fits, pool, spread
from .trust import agree

__all__ = [
    "DETERMINISTIC",
    "Plan",
    "adding_in_order",
    "adds_by_atomics",
    "agree",
    "backend",
    "fits",
    "fixed_order",
    "in_fixed_order",
    "plain",
    "plain_operations",
    "pool",
    "spread",
    "suppress",
    "suppressible",
    "switch",
]
