"""Training: what learns."""

from .freeze import set_trainable

__all__ = ["set_trainable"]
