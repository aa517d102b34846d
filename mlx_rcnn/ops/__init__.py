"""Pure functions on arrays: no parameters, no configuration."""

from .boxes import (
    box_area,
    box_iou,
    clip_boxes,
    cxcywh_to_xyxy,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)
from .keypoints import heatmaps_to_keypoints, keypoint_probabilities
from .masks import paste_masks
from .nms import batched_nms, nms, nms_mask
from .resize import resize_opencv, resize_pillow, resize_torch
from .rle import decode_rle, encode_rle
from .roi_align import crop_masks, multiscale_roi_align, roi_align
from .roi_pool import multiscale_roi_pool, roi_pool
from .soft_nms import soft_nms

__all__ = [
    "batched_nms",
    "box_area",
    "box_iou",
    "clip_boxes",
    "crop_masks",
    "cxcywh_to_xyxy",
    "decode_boxes",
    "decode_rle",
    "encode_boxes",
    "encode_rle",
    "generalized_box_iou",
    "heatmaps_to_keypoints",
    "keypoint_probabilities",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "nms",
    "nms_mask",
    "paste_masks",
    "resize_opencv",
    "resize_pillow",
    "resize_torch",
    "roi_align",
    "roi_pool",
    "soft_nms",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_xywh",
]
