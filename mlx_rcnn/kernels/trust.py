"""A kernel is believed once it has agreed with its twin in plain MLX, on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence

import mlx.core as mx

Outputs = Callable[[], Sequence[mx.array]]

# Share of the twin's values, or of 1, that rounding may take.
_BOUND = {mx.float32: 1e-4, mx.float16: 4e-3, mx.bfloat16: 3e-2}
_verdicts: dict[Hashable, bool] = {}


def agree(key: Hashable, ours: Outputs, twin: Outputs) -> bool:
    """Whether a kernel and its twin give the same; asked once a key and process, else a warning."""
    if key not in _verdicts:
        # Runs both and waits for them. A kernel that raises, as one that does not compile,
        # disagrees.
        _verdicts[key] = _compare(key, ours, twin)
    return _verdicts[key]


def _compare(key: Hashable, ours: Outputs, twin: Outputs) -> bool:
    expected = twin()
    reason = "differs from plain MLX"
    try:
        if all(_near(a, b) for a, b in zip(ours(), expected, strict=True)):
            return True
    except (RuntimeError, ValueError) as error:
        reason = f"fails ({error})"
    warnings.warn(
        f"the kernel {key} {reason} on this GPU, so plain MLX runs instead, slower; "
        "please report it",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _near(a: mx.array, b: mx.array) -> bool:
    """Whether all values are equal up to rounding, and of one kind."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bound = _BOUND.get(a.dtype, 0.0)
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return bool(mx.all(mx.abs(a - b) <= bound * mx.maximum(mx.abs(b), 1.0)).item())
