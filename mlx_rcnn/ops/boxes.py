"""Boxes: areas, overlaps, conversions, and the encoding of regression targets.

Boxes are xyxy with the width ``x2 - x1`` (no +1), in any frame; the last axis has length 4. They
may be of any real dtype: all is computed and returned in float32.
"""

from __future__ import annotations

import math

import mlx.core as mx

# A regressed width or height grows at most 1000 / 16 fold (Faster R-CNN in Detectron, torchvision).
BBOX_XFORM_CLIP = math.log(1000.0 / 16)


def _check(boxes: mx.array, name: str = "boxes") -> mx.array:
    """Boxes as float32: an area of 300x300 px overflows 16 bits, of floats and integers alike."""
    boxes = mx.array(boxes) if not isinstance(boxes, mx.array) else boxes
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"{name}: expected shape (..., 4), got {boxes.shape}")
    return boxes.astype(mx.float32)


def box_area(boxes: mx.array) -> mx.array:
    """Areas of boxes.

    Args:
        boxes (..., 4): xyxy.

    Returns:
        (...): ``(x2 - x1) * (y2 - y1)``, as ``torchvision.ops.box_area``.
    """
    boxes = _check(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection_and_union(boxes1: mx.array, boxes2: mx.array) -> tuple[mx.array, mx.array]:
    a, b = boxes1[..., :, None, :], boxes2[..., None, :, :]
    width = mx.minimum(a[..., 2], b[..., 2]) - mx.maximum(a[..., 0], b[..., 0])
    height = mx.minimum(a[..., 3], b[..., 3]) - mx.maximum(a[..., 1], b[..., 1])
    intersection = mx.maximum(width, 0) * mx.maximum(height, 0)
    return intersection, box_area(a) + box_area(b) - intersection


def box_iou(boxes1: mx.array, boxes2: mx.array) -> mx.array:
    """Intersection over union of every pair.

    Args:
        boxes1 (..., n, 4): xyxy.
        boxes2 (..., m, 4): xyxy, same frame; leading axes broadcast.

    Returns:
        (..., n, m): in [0, 1]; 0 where both boxes are empty (torchvision gives NaN there).
    """
    intersection, union = _intersection_and_union(
        _check(boxes1, "boxes1"), _check(boxes2, "boxes2")
    )
    return intersection / mx.where(union == 0, 1, union)


def generalized_box_iou(boxes1: mx.array, boxes2: mx.array) -> mx.array:
    """Generalized IoU of every pair (Rezatofighi et al., 2019, equation 1 and algorithm 1).

    Args:
        boxes1 (..., n, 4): xyxy.
        boxes2 (..., m, 4): xyxy, same frame.

    Returns:
        (..., n, m): IoU minus the share of the enclosing box outside the union, in [-1, 1]; 0 for
        a pair whose enclosing box is empty.
    """
    boxes1, boxes2 = _check(boxes1, "boxes1"), _check(boxes2, "boxes2")
    intersection, union = _intersection_and_union(boxes1, boxes2)
    a, b = boxes1[..., :, None, :], boxes2[..., None, :, :]
    width = mx.maximum(a[..., 2], b[..., 2]) - mx.minimum(a[..., 0], b[..., 0])
    height = mx.maximum(a[..., 3], b[..., 3]) - mx.minimum(a[..., 1], b[..., 1])
    hull = mx.maximum(width, 0) * mx.maximum(height, 0)
    iou = intersection / mx.where(union == 0, 1, union)
    return mx.where(hull == 0, 0, iou - (hull - union) / mx.where(hull == 0, 1, hull))


def clip_boxes(boxes: mx.array, size: tuple[float, float] | mx.array) -> mx.array:
    """Clip boxes to an image, as ``torchvision.ops.clip_boxes_to_image``.

    Args:
        boxes (..., n, 4): xyxy, pixels of the image.
        size: (height, width), or an array (..., 2) with one size for each list of n boxes.

    Returns:
        (..., n, 4): x in [0, width], y in [0, height].
    """
    boxes = _check(boxes)
    size = mx.array(size).astype(boxes.dtype)
    limit = mx.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1)  # (w, h, w, h)
    if limit.ndim > 1:
        limit = limit[..., None, :]
    return mx.minimum(mx.maximum(boxes, 0), limit)


def encode_boxes(
    boxes: mx.array, anchors: mx.array, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
) -> mx.array:
    """Regression targets that move anchors onto boxes (R-CNN, appendix C; torchvision's BoxCoder).

    Args:
        boxes (..., 4): xyxy targets.
        anchors (..., 4): xyxy, same shape and frame, with positive sides.
        weights: factors of (dx, dy, dw, dh). Default: all 1.

    Returns:
        (..., 4): (dx, dy, dw, dh).
    """
    boxes, anchors = _check(boxes), _check(anchors, "anchors")
    size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    center = boxes[..., :2] + 0.5 * size
    anchor_center = anchors[..., :2] + 0.5 * anchor_size
    shift = (center - anchor_center) / anchor_size
    scale = mx.log(size / anchor_size)
    return mx.concatenate([shift, scale], axis=-1) * mx.array(weights, dtype=boxes.dtype)


def decode_boxes(
    deltas: mx.array,
    anchors: mx.array,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    clip: float = BBOX_XFORM_CLIP,
    clip_below: bool = False,
) -> mx.array:
    """Apply regression deltas to anchors; the inverse of :func:`encode_boxes`.

    Args:
        deltas (..., 4): (dx, dy, dw, dh).
        anchors (..., 4): xyxy, broadcast against ``deltas``.
        weights: factors the deltas were multiplied by. Default: all 1.
        clip: dw and dh are clamped from above to this. Default: log(1000 / 16).
        clip_below: clamp them from below to ``-clip`` too, as mmdetection. Default: ``False``.

    Returns:
        (..., 4): xyxy in the frame of ``anchors``, float32.
    """
    deltas = _check(deltas, "deltas") / mx.array(weights, dtype=mx.float32)
    anchors = _check(anchors, "anchors")
    size = anchors[..., 2:] - anchors[..., :2]
    center = anchors[..., :2] + 0.5 * size
    center = deltas[..., :2] * size + center
    growth = mx.minimum(deltas[..., 2:], clip)
    growth = mx.maximum(growth, -clip) if clip_below else growth
    half = 0.5 * (mx.exp(growth) * size)
    return mx.concatenate([center - half, center + half], axis=-1)


def xyxy_to_xywh(boxes: mx.array) -> mx.array:
    """Corners (..., 4) to top left corner, width and height (COCO's order)."""
    boxes = _check(boxes)
    return mx.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def xywh_to_xyxy(boxes: mx.array) -> mx.array:
    """Top left corner, width and height (..., 4) to corners."""
    boxes = _check(boxes)
    return mx.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_cxcywh(boxes: mx.array) -> mx.array:
    """Corners (..., 4) to centre, width and height."""
    boxes = _check(boxes)
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    return mx.concatenate([center, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def cxcywh_to_xyxy(boxes: mx.array) -> mx.array:
    """Centre, width and height (..., 4) to corners."""
    boxes = _check(boxes)
    half = boxes[..., 2:] / 2
    return mx.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)
