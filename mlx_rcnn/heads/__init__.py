"""Heads over RoI features."""

from .box import FastRCNNConvFCHead, FastRCNNPredictor, RoIHeads, TwoMLPHead
from .branch import Branch, Stage
from .detections import DetectionRule, select_detections
from .keypoint import (
    KeypointBranch,
    KeypointRCNNHeads,
    KeypointRCNNPredictor,
    keypoint_loss,
    keypoint_targets,
)
from .mask import MaskBranch, MaskRCNNHeads, MaskRCNNPredictor, mask_loss
from .res5 import Res5Head
from .sampling import SampledRoIs, box_losses, sample_rois

__all__ = [
    "Branch",
    "DetectionRule",
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "KeypointBranch",
    "KeypointRCNNHeads",
    "KeypointRCNNPredictor",
    "MaskBranch",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "Res5Head",
    "RoIHeads",
    "SampledRoIs",
    "Stage",
    "TwoMLPHead",
    "box_losses",
    "keypoint_loss",
    "keypoint_targets",
    "mask_loss",
    "sample_rois",
    "select_detections",
]
