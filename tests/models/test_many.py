"""A thousand small objects in one image: all found, exactly, in bounded memory."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import MaskRCNN
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.ops.rle import decode_rle
from mlx_rcnn.outputs.coco import coco_results, results_of

CELL, ROWS, COLUMNS = 8, 25, 40  # every other cell of 50 x 80 holds an object
SIZE = (2 * ROWS * CELL, 2 * COLUMNS * CELL)
COUNT = ROWS * COLUMNS


class Cells(nn.Module):
    """The mean colour of each cell."""

    def __call__(self, x: mx.array) -> mx.array:
        n, h, w, c = x.shape
        return mx.mean(x.reshape(n, h // CELL, CELL, w // CELL, CELL, c), axis=(2, 4))


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    """Its proposals are the cells; the logit of a class is the brightness of its colour."""
    model = MaskRCNN(
        Cells(),
        3,
        4,
        anchor_sizes=(CELL, CELL + 2),  # of IoU 0.64: the larger one goes
        aspect_ratios=(1.0,),
        anchor_offset=0.5,
        anchor_stride=CELL,
        min_size=SIZE[0],
        max_size=SIZE[1],
        size_divisible=CELL,
        image_mean=(0, 0, 0),
        image_std=(1, 1, 1),
        roi_aligned=True,
        hidden_dim=3,
        dropout=0.0,
        mask_hidden_channels=8,
        mask_num_convs=1,
        rpn_pre_nms_top_n_test=8 * COUNT,
        rpn_post_nms_top_n_test=8 * COUNT,
    )
    weights = {k: np.zeros(v.shape, np.float32) for k, v in tree_flatten(model.parameters())}
    weights["rpn.head.conv.0.0.weight"][:, 1, 1] = np.eye(3)
    weights["rpn.head.cls_logits.weight"][...] = 9
    fc6 = weights["roi_heads.box_head.fc6.weight"].reshape(3, 7, 7, 3)
    fc6[:] = np.eye(3)[:, None, None] / 49
    weights["roi_heads.box_head.fc7.weight"][...] = np.eye(3)
    weights["roi_heads.box_predictor.cls_score.weight"][1:] = 20 * np.eye(3)
    weights["roi_heads.box_predictor.cls_score.bias"][0] = 2.5
    weights["roi_heads.mask_predictor.mask_fcn_logits.bias"][...] = 5  # all of each box
    model.load_weights([(k, mx.array(v)) for k, v in weights.items()])
    return model


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, and the boxes and labels that are in it, row by row; none are equally bright."""
    rng = np.random.default_rng(0)
    labels, shades = rng.integers(1, 4, COUNT), rng.permutation(COUNT) / COUNT / 2 + 0.5
    image, boxes = np.zeros((*SIZE, 3), np.float32), np.zeros((COUNT, 4), np.float32)
    for i in range(COUNT):
        y, x = (2 * CELL * v for v in divmod(i, COLUMNS))
        image[y : y + CELL, x : x + CELL, labels[i] - 1] = shades[i]
        boxes[i] = [x, y, x + CELL, y + CELL]
    return image, boxes, labels


def brute_force(model: MaskRCNN, image: np.ndarray, threshold: float, top_k: int) -> Any:
    """Every (proposal, class) pair, best first, against all of its class that were kept before."""
    net, batch = model.to_predict(), preprocess([image], model.config)
    features = net.features(batch.pixels)
    strides = net.strides(features, batch)
    proposals = net.propose(features, batch, strides)
    logits, deltas = net.box_outputs(net.stage(features, strides), proposals)
    assert not mx.any(deltas).item()  # a box stays where it is
    logits = np.array(logits[0], np.float64)[np.array(proposals.valid[0])]
    boxes = np.array(proposals.boxes[0], np.float64)[np.array(proposals.valid[0])]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    row, label = np.nonzero(scores[:, 1:] > threshold)
    order = np.argsort(-scores[row, label + 1], kind="stable")
    row, label = row[order], label[order] + 1
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    counts, best = [0] * 4, []
    rivals = np.zeros((4, len(row), 5))  # by class: boxes and areas
    for i, (at, of) in enumerate(zip(row, label, strict=True)):
        other, own = rivals[of, : counts[of]], boxes[at]
        shared = np.minimum(own[2:], other[:, 2:4]) - np.maximum(own[:2], other[:, :2])
        shared = np.clip(shared, 0, None).prod(axis=1)
        if not (shared / (areas[at] + other[:, 4] - shared) > 0.5).any():
            rivals[of, counts[of]] = [*own, areas[at]]
            counts[of] += 1
            best.append(i)
    best = best[:top_k]
    return boxes[row[best]], scores[row[best], label[best]], label[best], len(row)


@pytest.mark.parametrize("kind", ["hard", "linear"])
def test_all_are_found(model: MaskRCNN, scene: Any, kind: str) -> None:
    image, boxes, labels = scene
    options = {} if kind == "hard" else {"box_nms_kind": kind}
    soft = MaskRCNN(model.config, **options)
    soft.update(model.parameters())
    [found] = soft.predict(image, top_k=COUNT, masks="raw")
    order = np.lexsort((found["boxes"][:, 0], found["boxes"][:, 1].round()))
    np.testing.assert_array_equal(found["labels"][order], labels)
    np.testing.assert_allclose(found["boxes"][order], boxes, atol=1e-3)
    assert found["masks"].shape == (COUNT, 28, 28)
    # Cells beside an object are dim and come after all of them.
    [more] = soft.predict(image, top_k=1200, masks="raw")
    assert len(more["scores"]) == 1200
    np.testing.assert_array_equal(more["scores"][:COUNT], found["scores"])
    [few] = soft.predict(image, masks="raw")
    np.testing.assert_array_equal(few["scores"], found["scores"][:100])


def test_brute_force(model: MaskRCNN, scene: Any) -> None:
    image, _, _ = scene
    boxes, scores, labels, pairs = brute_force(model, image, 0.05, 1500)
    assert pairs > 4 * COUNT
    apart = np.abs(np.diff(scores, prepend=2, append=-1)) > 1e-5
    apart = apart[1:] & apart[:-1]
    assert apart[:COUNT].mean() > 0.3
    for top_k in (COUNT, 1500):
        [found] = model.predict(image, top_k=top_k, masks="raw")
        assert len(found["scores"]) == top_k
        np.testing.assert_allclose(found["scores"], scores[:top_k], atol=1e-5)
        rows = apart[:top_k]
        np.testing.assert_array_equal(found["labels"][rows], labels[:top_k][rows])
        np.testing.assert_allclose(found["boxes"][rows], boxes[:top_k][rows], atol=1e-3)


def test_masks_fill_their_boxes(model: MaskRCNN, scene: Any) -> None:
    image, _, _ = scene
    [found] = model.predict(image, top_k=COUNT)
    assert found["masks"].shape == (COUNT, *SIZE) and found["masks"].dtype == bool
    areas = found["masks"].sum(axis=(1, 2))
    assert ((areas >= CELL**2) & (areas <= (CELL + 2) ** 2)).all()
    for mask, (x1, y1, x2, y2) in list(
        zip(found["masks"], found["boxes"].round().astype(int), strict=True)
    )[::99]:
        assert mask[y1:y2, x1:x2].all()


def test_memory_of_many(model: MaskRCNN, scene: Any) -> None:
    """Masks are computed some at a time, and as RLE pasted one at a time."""
    image, _, _ = scene
    peaks = []
    for top_k in (100, COUNT):
        mx.clear_cache()
        mx.reset_peak_memory()
        start = mx.get_active_memory()
        [found] = model.predict(image, top_k=top_k, masks="raw")
        peaks.append((mx.get_peak_memory() - start) / 2**20)
    assert peaks[1] < peaks[0] + 40, peaks  # MiB
    entries = results_of(model, found, 1, image)
    [full] = model.predict(image, top_k=COUNT)
    assert entries == coco_results(full, 1)
    assert all(
        (decode_rle(e["segmentation"]) == m).all()
        for e, m in zip(entries, full["masks"], strict=True)
    )
