"""Checkpoints of other libraries, read without those libraries.

``torch_file`` turns a file into arrays, ``rename`` maps its keys by a table of rules, and one
module a library holds its table and recognises its architectures.
"""

from typing import Any

from mlx_rcnn import moved

from .checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]


def __getattr__(name: str) -> Any:
    """Modules that moved."""
    return moved.attribute(__name__, name)
