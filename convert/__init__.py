"""Checkpoints of other libraries, read without those libraries.

``torch_file`` turns a file into arrays, ``rename`` maps its keys by a table of rules, and one
module a library holds its table and recognises its architectures.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlx_rcnn import moved

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]


def __getattr__(name: str) -> Any:
    """The names of this door, imported when asked for, and modules that moved."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.checkpoint"), name)
    return moved.attribute(__name__, name)
