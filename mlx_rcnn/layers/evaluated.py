"""Modules whose weights every thread can use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn

_TO_COME: ContextVar[bool] = ContextVar("weights_to_come", default=False)


class EvaluatedModule(nn.Module):
    """A module that evaluates the modules assigned to it, and the weights loaded into it.

    A lazy array belongs to a stream of the thread that made it, and no other thread can evaluate
    it: without this a new head could be trained, but not used to predict, by a worker.
    """

    def __setattr__(self, key: str, value: object) -> None:
        super().__setattr__(key, value)
        if isinstance(value, nn.Module) and not _TO_COME.get():
            mx.eval(value.parameters())

    def load_weights(
        self, file_or_weights: str | list[tuple[str, mx.array]], strict: bool = True
    ) -> nn.Module:
        """As ``mlx.nn.Module.load_weights``, evaluated."""
        super().load_weights(file_or_weights, strict)
        mx.eval(self.parameters())
        return self


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Inside the block modules are built without evaluating initial weights nobody will see."""
    token = _TO_COME.set(True)
    try:
        yield
    finally:
        _TO_COME.reset(token)


M = TypeVar("M", bound=nn.Module)


def inference(model: M, widen: bool = False) -> M:
    """A view of a module tree in evaluation mode, which shares the arrays.

    The tree itself is never touched, so that any number of threads may run it at once, whatever
    mode it is in.

    Args:
        model: any module.
        widen: float32 in place of arrays of 16 bits. Default: ``False``.

    Returns:
        The same modules with ``training`` off; replacing an array in it leaves ``model`` alone.
    """
    found = _viewed(model, {}, widen)
    assert isinstance(found, type(model))
    return found


def _viewed(value: object, views: dict[int, nn.Module], widen: bool) -> object:
    """What stands in a view for a value of the tree; no closure, whose cycle would hold arrays."""
    if isinstance(value, nn.Module):
        if id(value) not in views:
            copy = views[id(value)] = type(value).__new__(type(value))
            copy.__dict__.update(value.__dict__)
            copy._training = False
            dict.update(copy, {k: _viewed(v, views, widen) for k, v in list(value.items())})
        return views[id(value)]
    if isinstance(value, dict):
        return {k: _viewed(v, views, widen) for k, v in value.items()}
    if type(value) is list:
        return [_viewed(v, views, widen) for v in value]
    if type(value) is tuple:
        return tuple(_viewed(v, views, widen) for v in value)
    if widen and isinstance(value, mx.array) and value.dtype in (mx.float16, mx.bfloat16):
        return value.astype(mx.float32)
    return value
