"""What a state dict was recognised as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .rename import Rule


class Recognised(NamedTuple):
    """How to build the network of a state dict and fill it.

    ``library`` it comes from; ``model``, a key of ``mlx_rcnn.weights.MODELS``; ``backbone`` and
    ``detector``, fields of their configs (``backbone["type"]`` is a key of
    ``mlx_rcnn.backbones.BACKBONES``); ``rules`` that rename its keys; ``note``, one line that says
    what was recognised and why.
    """

    library: str
    model: str
    backbone: dict[str, Any]
    detector: dict[str, Any]
    rules: Sequence[Rule]
    note: str
