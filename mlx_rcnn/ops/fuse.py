"""Fusing elementwise chains into one kernel where the machine can."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx

F = TypeVar("F", bound=Callable[..., mx.array])


@functools.cache
def _has_compiler() -> bool:
    """On a CPU ``mx.compile`` calls g++, which a user's machine need not have."""
    return shutil.which("g++") is not None


def fused(function: F) -> F:
    """Compile an elementwise function, falling back to plain evaluation without a compiler.

    A chain of elementwise operations costs one pass over memory instead of one each. The function
    is traced once for all shapes, so it may broadcast its arguments but not change their rank.

    Args:
        function: elementwise, arrays in, one array out.

    Returns:
        The same function, compiled on a GPU and on a CPU with g++.
    """
    compiled = mx.compile(function, shapeless=True)

    @functools.wraps(function)
    def call(*arrays: mx.array) -> mx.array:
        on_gpu = mx.default_device().type == mx.DeviceType.gpu
        return (compiled if on_gpu or _has_compiler() else function)(*arrays)

    return call  # type: ignore[return-value]
