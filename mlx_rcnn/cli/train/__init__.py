"""``mlx_rcnn train``."""

from .command import run

__all__ = ["run"]
