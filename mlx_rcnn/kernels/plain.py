"""MLX's own operations alone, where a graph leaves the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLAIN: ContextVar[bool] = ContextVar("plain_operations", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Inside the block no kernels of ours run and no operation has a gradient of ours."""
    # An exported function may hold neither: MLX cannot write a gradient to a file, and a kernel is
    # checked against its twin on the machine it runs on, which an app does not do.
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def plain() -> bool:
    """Whether it is so now."""
    return _PLAIN.get()
