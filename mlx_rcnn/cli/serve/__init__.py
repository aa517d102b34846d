"""``mlx_rcnn serve``."""

from .command import run

__all__ = ["run"]
