"""Heads over RoI features."""

from .box import (
    FastRCNNConvFCHead,
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
    "FastRCNNConvFCHead",
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
