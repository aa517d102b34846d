"""Heads over RoI features."""

from .box import FastRCNNPredictor, RoIHeads, TwoMLPHead, select_detections
from .mask import MaskRCNNHeads, MaskRCNNPredictor

__all__ = [
    "FastRCNNPredictor",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "RoIHeads",
    "TwoMLPHead",
    "select_detections",
]
