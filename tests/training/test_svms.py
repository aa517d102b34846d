"""R-CNN's SVMs: what mining leaves out changes nothing, and what they then find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_rcnn
from coloured import model, sample
from mlx_rcnn import RCNN, AlexNetConfig, FasterRCNN
from mlx_rcnn.models import crop_units
from mlx_rcnn.ops import box_iou
from mlx_rcnn.training import fit_svms
from mlx_rcnn.training.hinge import Hyperplane, fit_hinge

SAMPLES = [sample(seed) for seed in range(6)]


def margins(rcnn: RCNN, image: Any, boxes: np.ndarray) -> np.ndarray:
    [units] = crop_units(rcnn, [image], [boxes])
    return np.array(rcnn.roi_heads.svms(mx.array(units)))


def of_all(rcnn: RCNN, label: int, c: float, scale: float) -> Hyperplane:
    """The SVM of a class over every positive and negative there is, unmined."""
    rows, positive = [], []
    for image, target in SAMPLES:
        own = target["boxes"][target["labels"] == label]
        iou = np.array(box_iou(mx.array(target["proposals"]), mx.array(own))).max(axis=1)
        far = target["proposals"][iou < 0.3]
        [units] = crop_units(rcnn, [image], [np.concatenate([own, far])])
        rows.append(units * np.float32(scale))
        positive += [True] * len(own) + [False] * len(far)
    return fit_hinge(np.concatenate(rows), np.array(positive), c, positive_weight=2.0)


def test_mining_finds_the_svm_of_all_negatives() -> None:
    rcnn = model()
    done = fit_svms(rcnn, SAMPLES, c=0.01, first_negatives=3, max_passes=10)
    assert done.positives == [6, 6, 6] and len(done.added) < 10
    assert max(done.negatives) < 6 * 30  # of 45 an image most are easy
    for label in (1, 2, 3):
        plane = of_all(rcnn, label, 0.01, done.scale)
        for image, target in SAMPLES[:2]:
            [units] = crop_units(rcnn, [image], [target["proposals"]])
            got = margins(rcnn, image, target["proposals"])[:, label - 1]
            expected = plane.margins(units * np.float32(done.scale))
            np.testing.assert_allclose(got, expected, atol=0.02)


def test_what_they_find(folder: Path) -> None:
    rcnn = model(clip_results=True)
    fit_svms(rcnn, SAMPLES, c=0.1)
    assert rcnn.config.rcnn_scores == "svm"
    image, target = sample(77)  # never seen
    own = margins(rcnn, image, target["boxes"])
    assert (np.argmax(own, axis=1) == [0, 1, 2]).all() and (np.diag(own) > 0).all()
    [found] = rcnn.predict([image], [target["proposals"]], score_thresh=0.5, nms_thresh=0.3)
    assert sorted(found["labels"].tolist()) == [1, 2, 3]
    iou = np.array(box_iou(mx.array(found["boxes"]), mx.array(target["boxes"])))
    assert (iou[range(3), found["labels"] - 1] > 0.3).all()  # the purest crop is the best
    # The score is the sigmoid of the margin, whatever the other classes' are.
    best = margins(rcnn, image, target["proposals"]).max(axis=0)
    assert (found["scores"] <= 1 / (1 + np.exp(-best[found["labels"] - 1])) + 1e-6).all()
    mlx_rcnn.save(rcnn, folder / "svm")
    again = mlx_rcnn.load(folder / "svm", backbone=rcnn.backbone)
    [same] = again.predict([image], [target["proposals"]], score_thresh=0.5, nms_thresh=0.3)
    for name, value in found.items():
        np.testing.assert_array_equal(same[name], value)


def test_it_is_the_same_each_time() -> None:
    one, two = model(), model()
    first = fit_svms(one, SAMPLES, seed=4)
    assert first == fit_svms(two, SAMPLES, seed=4)
    assert mx.array_equal(one.roi_heads.svms.weight, two.roi_heads.svms.weight)


def test_a_class_without_examples_is_never_found() -> None:
    rcnn = model(5)
    done = fit_svms(rcnn, SAMPLES[:2], c=0.1)
    assert done.positives[3] == 0
    image, target = SAMPLES[0]
    [found] = rcnn.predict([image], [target["proposals"]], score_thresh=1e-6)
    assert 4 not in found["labels"]


def test_crowds_are_no_examples() -> None:
    image, target = SAMPLES[0]
    crowd = {**target, "iscrowd": np.array([1, 0, 0])}
    assert fit_svms(model(), [(image, crowd)]).positives == [0, 1, 1]


def test_proposals_apart_and_images_with_nothing() -> None:
    image, target = SAMPLES[0]
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}
    bare = {k: v for k, v in target.items() if k != "proposals"}
    given = [target["proposals"], np.zeros((0, 4)), target["proposals"][-5:]]
    done = fit_svms(model(), [(image, bare), (image, empty), (image, empty)], given)
    assert done.positives == [1, 1, 1]


def test_half_precision() -> None:
    rcnn = RCNN(AlexNetConfig(5, width=4, hidden_dim=8), 16, 4, crop_size=64)
    rcnn.set_dtype(mx.float16)
    fit_svms(rcnn, SAMPLES[:1])
    assert rcnn.roi_heads.svms.weight.dtype == mx.float16


def test_what_is_refused() -> None:
    image, target = SAMPLES[0]
    flat = {**target, "proposals": [[0, 0, 9, 5], [3, 3, 3, 5]]}
    for given, message in (
        ([], "0 samples"),
        ([(image, {**target, "proposals": None})], "an RCNN needs proposals"),
        ([(image, {**target, "labels": np.array([1, 2, 9])})], r"samples\[0\]: label 9, expected"),
        ([(image, {**target, "boxes": np.zeros((0, 4)), "labels": []})], "have no targets"),
        ([(image, flat)], r"samples\[0\]: proposals, row 1: .* has no area"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_svms(model(), given)
    with pytest.raises(TypeError, match="expected an RCNN"):
        fit_svms(FasterRCNN(AlexNetConfig(width=8), 32, 3, hidden_dim=8), SAMPLES)  # type: ignore
