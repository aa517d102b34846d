"""Fusing elementwise chains into one kernel where the machine can."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import ParamSpec

import mlx.core as mx

P = ParamSpec("P")


@functools.cache
def _has_compiler() -> bool:
    """On a CPU ``mx.compile`` calls g++, which a user's machine need not have."""
    return shutil.which("g++") is not None


def fused(function: Callable[P, mx.array]) -> Callable[P, mx.array]:
    """Compile an elementwise function on a GPU; it may not change its arguments' rank."""
    # A chain of elementwise operations costs one pass over memory there instead of one each. On a
    # CPU the plain operations stay: they vectorise, and each writes over its input, where a
    # compiled one does neither if its arguments broadcast. It is traced once for all shapes.
    return _choose(function, lambda: False)


def fused_alike(function: Callable[P, mx.array]) -> Callable[P, mx.array]:
    """As :func:`fused`, and on a CPU with g++ too: for arguments all of one shape, or scalars."""
    return _choose(function, lambda: _has_compiler())


def _choose(function: Callable[P, mx.array], on_cpu: Callable[[], bool]) -> Callable[P, mx.array]:
    compiled = mx.compile(function, shapeless=True)

    @functools.wraps(function)
    def call(*arrays: P.args, **named: P.kwargs) -> mx.array:
        on_gpu = mx.default_device().type == mx.DeviceType.gpu
        return (compiled if on_gpu or on_cpu() else function)(*arrays, **named)

    return call
