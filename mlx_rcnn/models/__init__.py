"""Models: the flow from images to detections."""

from .builders import (
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
from .faster_rcnn import FasterRCNN
from .keypoint_rcnn import KeypointRCNN
from .mask_rcnn import MaskRCNN

__all__ = [
    "FasterRCNN",
    "KeypointRCNN",
    "MaskRCNN",
    "faster_rcnn_resnet_50_fpn",
    "faster_rcnn_resnet_101_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_101_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
]
