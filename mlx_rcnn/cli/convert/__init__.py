"""``mlx_rcnn convert``."""

from .command import run

__all__ = ["run"]
