"""How much freed memory is kept: MLX's cache, and the C library's heap on Linux.

MLX keeps buffers that are freed, to use them again for arrays of the same size. On a Mac it may
keep as much as the machine has, and photos of a hundred sizes fill that; what is kept is missing
elsewhere. Loops of this package over many images therefore run in :func:`bounded_cache`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import mlx.core as mx

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIB = 1 << 30
_LEAST, _MOST, _SHARE = 512 << 20, 8 << 30, 4


def reuse_large_blocks() -> bool:
    """Let this process keep large blocks it frees, instead of giving them back to the kernel.

    By default glibc maps every block over 32 MB anew, and the kernel clears its pages each time:
    `predict` on two CPU cores spends a third of its time on that. The price is that the process
    stays as large as its peak. The command line does this; call it yourself before the first
    prediction of a program that does little else.

    Returns:
        Whether it had an effect: only on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _GIB) and mallopt(_M_TRIM_THRESHOLD, 2 * _GIB - 1))


def cache_limit() -> int:
    """Bytes of freed memory that MLX may keep: a quarter of the machine's, 0.5 to 8 GB."""
    return min(max(machine_memory() // _SHARE, _LEAST), _MOST)


def training_cache(limit: float | None = None) -> int:
    """Bytes of freed memory that MLX may keep while it trains; ``limit`` in GB."""
    # On a CPU they gain no time and add to the peak, all of them: the C library keeps blocks too.
    if limit is None:
        limit = 2.0 if mx.default_device().type == mx.DeviceType.gpu else 0.25
    return int(limit * 1e9)


def machine_memory() -> int:
    """Bytes of memory that MLX's device can use, taken by other programs or not."""
    size = mx.device_info().get("memory_size")  # a GPU's
    if size is None:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(size)


class _Blocks:
    """How many blocks bound the cache now, and what held before the first of them."""

    lock, open, before = Lock(), 0, 0


@contextmanager
def bounded_cache(limit: int | None = None) -> Iterator[None]:
    """Bound MLX's cache of freed buffers, in bytes, inside the block; what held before returns."""
    # Blocks may lie in each other and run in several threads: the first sets the limit, the last
    # restores what was there.
    with _Blocks.lock:
        if _Blocks.open == 0:
            wanted = cache_limit() if limit is None else limit
            _Blocks.before = mx.set_cache_limit(wanted)
            if limit is None and _Blocks.before < wanted:
                mx.set_cache_limit(_Blocks.before)
        _Blocks.open += 1
    try:
        yield
    finally:
        with _Blocks.lock:
            _Blocks.open -= 1
            if _Blocks.open == 0:
                mx.set_cache_limit(_Blocks.before)
