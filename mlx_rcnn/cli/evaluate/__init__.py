"""``mlx_rcnn evaluate``."""

from .command import run

__all__ = ["run"]
