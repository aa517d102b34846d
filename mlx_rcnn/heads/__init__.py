"""Heads over RoI features."""

from .box import FastRCNNConvFCHead, FastRCNNPredictor, RoIHeads, TwoMLPHead
from .detections import select_detections
from .keypoint import (
    KeypointRCNNHeads,
    KeypointRCNNPredictor,
    keypoint_loss,
    keypoint_targets,
)
from .mask import MaskRCNNHeads, MaskRCNNPredictor, mask_loss
from .res5 import Res5Head
from .sampling import SampledRoIs, box_losses, sample_rois

__all__ = [
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "KeypointRCNNHeads",
    "KeypointRCNNPredictor",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "Res5Head",
    "RoIHeads",
    "SampledRoIs",
    "TwoMLPHead",
    "box_losses",
    "keypoint_loss",
    "keypoint_targets",
    "mask_loss",
    "sample_rois",
    "select_detections",
]
