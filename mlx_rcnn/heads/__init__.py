"""Heads over RoI features."""

from .box import (
    FastRCNNPredictor,
    RoIHeads,
    SampledRoIs,
    TwoMLPHead,
    box_losses,
    sample_rois,
    select_detections,
)
from .mask import MaskRCNNHeads, MaskRCNNPredictor, mask_loss

__all__ = [
    "FastRCNNPredictor",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "RoIHeads",
    "SampledRoIs",
    "TwoMLPHead",
    "box_losses",
    "mask_loss",
    "sample_rois",
    "select_detections",
]
