"""``mlx_rcnn data``."""

from .command import run

__all__ = ["run"]
