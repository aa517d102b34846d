"""Memory of the C library on Linux, where MLX's CPU backend takes its arrays from it."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIB = 1 << 30


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
