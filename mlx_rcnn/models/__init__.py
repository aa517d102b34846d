"""Models: the flow from images to detections."""

from .augmented import TestTimeAugment, predict_augmented
from .builders import (
    cascade_mask_rcnn_resnet_50_fpn,
    cascade_mask_rcnn_resnet_101_fpn,
    cascade_rcnn_resnet_50_fpn,
    cascade_rcnn_resnet_101_fpn,
    fast_rcnn_resnet_50_fpn,
    faster_rcnn_resnet_50_fpn,
    faster_rcnn_resnet_101_fpn,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    keypointrcnn_resnet50_fpn,
    mask_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_101_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from .cascade_rcnn import CascadeMaskRCNN, CascadeRCNN
from .crop_units import crop_maps, crop_units
from .detector import Detector
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .keypoint_rcnn import KeypointRCNN
from .mask_rcnn import MaskRCNN
from .plain_builders import fast_rcnn_vgg_16, faster_rcnn_vgg_16, rcnn_alexnet, rcnn_vgg_16
from .proposal_network import ProposalNetwork
from .quantized import quantize
from .rcnn import RCNN
from .tiled import Tiles, predict_tiled

__all__ = [
    "RCNN",
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "Detector",
    "FastRCNN",
    "FasterRCNN",
    "KeypointRCNN",
    "MaskRCNN",
    "ProposalNetwork",
    "TestTimeAugment",
    "Tiles",
    "cascade_mask_rcnn_resnet_50_fpn",
    "cascade_mask_rcnn_resnet_101_fpn",
    "cascade_rcnn_resnet_50_fpn",
    "cascade_rcnn_resnet_101_fpn",
    "crop_maps",
    "crop_units",
    "fast_rcnn_resnet_50_fpn",
    "fast_rcnn_vgg_16",
    "faster_rcnn_resnet_50_fpn",
    "faster_rcnn_resnet_101_fpn",
    "faster_rcnn_vgg_16",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_101_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "predict_augmented",
    "predict_tiled",
    "quantize",
    "rcnn_alexnet",
    "rcnn_vgg_16",
]
