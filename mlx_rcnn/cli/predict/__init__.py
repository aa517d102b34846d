"""``mlx_rcnn predict``."""

from .command import run

__all__ = ["run"]
