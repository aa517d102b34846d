"""Operators against detectron2's and mmdetection's own, where their rules differ or are at an edge.

The inputs reach what whole images do not: clamps of regressed sizes, boxes on a border between
levels, IoU of exactly the threshold, RoIs outside the map, empty or tiny.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import FasterRCNNConfig
from mlx_rcnn.convert.libraries import detectron2, mmdetection
from mlx_rcnn.convert.libraries.shapes import PYRAMID_STRIDES
from mlx_rcnn.inputs.transform import resized_size
from mlx_rcnn.ops import (
    batched_nms,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    paste_masks,
    roi_align,
)
from mlx_rcnn.ops.roi_gather import assign_levels
from mlx_rcnn.rpn.anchors import AnchorGenerator
from recipe import GOLDENS

DETECTORS = {"detectron2": detectron2.DETECTOR, "mmdet": mmdetection.DETECTOR}
WEIGHTS = {"w1": (1.0, 1.0, 1.0, 1.0), "w10": (10.0, 10.0, 5.0, 5.0)}
libraries = pytest.mark.parametrize("library", DETECTORS)


def units(library: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDENS / f"units_{library}.npz"))


def config(library: str) -> FasterRCNNConfig:
    return FasterRCNNConfig(None, 8, 3, use_fpn=True, **DETECTORS[library])


@libraries
@pytest.mark.parametrize("weights", WEIGHTS)
def test_decode(library: str, weights: str) -> None:
    want, both = units(library), config(library).bbox_clamp_both
    deltas, boxes = (mx.array(want[k]) for k in ("deltas", "boxes"))
    ours = decode_boxes(deltas.reshape(-1, 3, 4), boxes[:, None], WEIGHTS[weights], clip_below=both)
    np.testing.assert_allclose(
        np.array(ours).reshape(-1, 12),
        want[f"decode_{weights}"],
        atol=5e-4,  # of 3000 px
    )
    clipped = clip_boxes(ours, tuple(want["image_hw"].tolist()))
    np.testing.assert_allclose(
        np.array(clipped).reshape(-1, 12),
        want[f"decode_{weights}_clipped"],
        atol=5e-4,  # of 3000 px
    )


def test_the_clamps_differ() -> None:
    """The goldens tell the two rules apart, so the test above cannot pass with the wrong one."""
    first, second = (units(library)["decode_w1"] for library in DETECTORS)
    assert np.abs(first - second).max() > 0.1


@libraries
def test_encode(library: str) -> None:
    want = units(library)
    boxes = mx.array(want["boxes"])
    ours = encode_boxes(boxes[30:], boxes[:30], WEIGHTS["w10"])
    wanted = want["encode_w10_first30_to_last30"]
    np.testing.assert_allclose(np.array(ours), wanted, rtol=1e-5, atol=1e-5)


@libraries
@pytest.mark.parametrize("size", [7, 14])
def test_roi_align(library: str, size: int) -> None:
    want, rule = units(library), config(library)
    ours = roi_align(
        mx.array(want["feat"].transpose(0, 2, 3, 1)),
        mx.array(want["rois"]),
        size,
        0.25,
        rule.roi_sampling_ratio,
        rule.roi_aligned,
    )
    np.testing.assert_allclose(
        np.array(ours).transpose(0, 3, 1, 2), want[f"roi_align_{size}"], atol=2e-6
    )


@libraries
def test_levels(library: str) -> None:
    want = units(library)
    ours = assign_levels(mx.array(want["lvl_boxes"]), [1 / 4, 1 / 8, 1 / 16, 1 / 32])
    np.testing.assert_array_equal(np.array(ours), want["levels"])


@libraries
def test_nms(library: str) -> None:
    want = units(library)
    boxes, scores, classes = (mx.array(want[f"nms_{k}"]) for k in ("boxes", "scores", "classes"))
    ours = batched_nms(boxes, scores, classes.astype(mx.int32), 0.5)
    np.testing.assert_array_equal(np.array(ours), want["nms_keep"])


@libraries
def test_masks(library: str) -> None:
    want = units(library)
    size = tuple(want["image_hw"].tolist())
    ours = paste_masks(want["mask_probs"], want["mask_boxes"], size, rule="detectron2")
    np.testing.assert_array_equal(ours.sum(axis=(1, 2)), want["mask_areas"])
    np.testing.assert_array_equal(np.packbits(ours, axis=-1), want["masks_packed"])


@libraries
def test_anchors_to_the_bit(library: str) -> None:
    want, rule = units(library), config(library)
    generate = AnchorGenerator(
        None, rule.aspect_ratios, True, PYRAMID_STRIDES, rule.anchor_rounding, rule.anchor_offset
    )
    sizes = [(int(h), int(w)) for h, w in want["anchor_feature_hw"]]
    for level, ours in zip(range(2, 7), generate(sizes, (96, 128)), strict=True):
        np.testing.assert_array_equal(np.array(ours), want[f"anchors_p{level}"])


@libraries
def test_resized_sizes(library: str) -> None:
    want, rule = units(library), config(library)
    ours = [resized_size(int(h), int(w), rule) for h, w in want["resize_in_hw"]]
    np.testing.assert_array_equal(np.array(ours), want["resize_out_hw"])
