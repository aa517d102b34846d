"""``mlx_rcnn doctor``."""

from .command import run

__all__ = ["run"]
