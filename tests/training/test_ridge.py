"""R-CNN's box regression in closed form: the minimum it is, and what it then finds."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coloured import model, sample
from mlx_rcnn import RCNN, AlexNetConfig, FasterRCNN
from mlx_rcnn.models import crop_maps
from mlx_rcnn.ops import decode_boxes
from mlx_rcnn.training import fit_boxes
from mlx_rcnn.training.ridge import solve_ridge

SAMPLES = [sample(seed) for seed in range(6)]
WEIGHTS = np.array([10, 10, 5, 5])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes, by hand."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = float(np.prod(np.maximum(sides, 0)))
    return inner / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


def pairs_of(samples: list[Any], label: int) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """(image, box, target) of a class, one after the other."""
    found = []
    for image, target in samples:
        for box in np.concatenate([target["proposals"], target["boxes"]]):
            near = [iou(box, own) for own in target["boxes"]]
            best = int(np.argmax(near))
            if near[best] > 0.6 and target["labels"][best] == label:
                found.append((image, box, target["boxes"][best]))
    return found


def deltas(box: np.ndarray, target: np.ndarray) -> np.ndarray:
    (w, h), (v, u) = box[2:] - box[:2], target[2:] - target[:2]
    x, y = (target[:2] + target[2:] - box[:2] - box[2:]) / 2
    return np.array([x / w, y / h, np.log(v / w), np.log(u / h)]) * WEIGHTS


@pytest.mark.parametrize("ridge", [1000.0, 10.0])
def test_it_is_the_minimum(ridge: float) -> None:
    rcnn = model(ridge=ridge)
    counts = fit_boxes(rcnn, SAMPLES)
    layer = rcnn.roi_heads.box_predictor.bbox_pred
    for label in (1, 2, 3):
        pairs = pairs_of(SAMPLES, label)
        assert counts[label - 1] == len(pairs) > 12
        rows = np.concatenate([crop_maps(rcnn, [i], [b[None]])[0] for i, b, _ in pairs])
        wanted = np.array([deltas(b, t) for _, b, t in pairs])
        # Least squares over the pairs, a column of ones for the bias, and a row a weight for the
        # ridge, which the bias is spared.
        n, d = rows.shape
        system = np.zeros((n + d, d + 1))
        system[:n, :d], system[:n, d] = rows, 1
        system[n:, :d] = np.eye(d) * np.sqrt(ridge * n / 10_000)
        best = np.linalg.lstsq(system, np.concatenate([wanted, np.zeros((d, 4))]), rcond=None)[0]
        own = slice(4 * label, 4 * label + 4)
        np.testing.assert_allclose(np.array(layer.weight)[own], best[:d].T, atol=1e-4)
        np.testing.assert_allclose(np.array(layer.bias)[own], best[d], atol=1e-4)
    assert not np.array(layer.weight)[:4].any(), "the background's are not touched"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 100), st.integers(0, 99))
def test_both_systems_have_the_same_solution(n: int, d: int, strength: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, wanted = rng.normal(size=(n, d)) + 3, rng.normal(size=(n, 2))
    weight, bias = solve_ridge(rows, wanted, strength)
    # At the minimum both gradients are zero.
    error = rows @ weight.T + bias - wanted
    np.testing.assert_allclose(error.T @ rows + strength * weight, 0, atol=1e-8)
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=1e-8)


def test_no_ridge_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    rows, true = rng.normal(size=(50, 3)), rng.normal(size=(4, 3))
    weight, bias = solve_ridge(rows, rows @ true.T + 7, 0)
    np.testing.assert_allclose(weight, true)
    np.testing.assert_allclose(bias, 7)
    assert np.isfinite(solve_ridge(rows[:2], rows[:2], 0)[0]).all()


def test_boxes_come_closer_on_pictures_never_seen() -> None:
    rcnn = model(ridge=1.0)
    fit_boxes(rcnn, [sample(seed) for seed in range(20)])
    before, after = [], []
    for label in (1, 2, 3):
        for image, box, target in pairs_of([sample(seed) for seed in (70, 71, 72)], label):
            [maps] = crop_maps(rcnn, [image], [box[None]])
            found = rcnn.roi_heads.box_predictor.bbox_pred(mx.array(maps)).reshape(-1, 4)[label]
            moved = np.array(decode_boxes(found, mx.array(box), (10, 10, 5, 5)))
            before.append(iou(box, target))
            after.append(iou(moved, target))
    assert np.mean(after) > np.mean(before) + 0.05


def test_more_pairs_than_asked_for_are_drawn_by_the_seed() -> None:
    one, two, other = model(), model(), model()
    assert fit_boxes(one, SAMPLES, max_pairs=9, seed=1) == [9, 9, 9]
    fit_boxes(two, SAMPLES, max_pairs=9, seed=1)
    fit_boxes(other, SAMPLES, max_pairs=9, seed=2)
    weights = [m.roi_heads.box_predictor.bbox_pred.weight for m in (one, two, other)]
    assert mx.array_equal(weights[0], weights[1]) and not mx.array_equal(weights[0], weights[2])


def test_a_class_without_pairs_and_crowds() -> None:
    rcnn = model(5)
    layer = rcnn.roi_heads.box_predictor.bbox_pred
    layer.weight = layer.weight + 0.25
    image, target = SAMPLES[0]
    crowd = {**target, "iscrowd": np.array([1, 0, 0])}
    counts = fit_boxes(rcnn, [(image, crowd)])
    assert counts[0] == counts[3] == 0 and min(counts[1:3]) > 0
    weight = np.array(layer.weight)
    assert (weight[4:8] == 0.25).all() and (weight[16:] == 0.25).all()
    assert not (weight[8:16] == 0.25).any()


def test_half_precision() -> None:
    rcnn = RCNN(AlexNetConfig(5, width=4, hidden_dim=8), 16, 4, crop_size=64)
    rcnn.set_dtype(mx.float16)
    assert min(fit_boxes(rcnn, SAMPLES[:1])) > 0
    weight = rcnn.roi_heads.box_predictor.bbox_pred.weight
    assert weight.dtype == mx.float16 and mx.all(mx.isfinite(weight)).item()


def test_what_is_refused() -> None:
    image, target = SAMPLES[0]
    none = {"boxes": np.zeros((0, 4)), "labels": [], "proposals": target["proposals"]}
    for wrong, message in (
        ([], "0 samples"),
        ([(image, {**target, "proposals": None})], "an RCNN needs proposals"),
        ([(image, {**target, "labels": np.array([1, 2, 9])})], r"samples\[0\]: label 9, expected"),
        ([(image, none)], "nothing to regress"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_boxes(model(), wrong)
    with pytest.raises(ValueError, match="max_pairs=0"):
        fit_boxes(model(), SAMPLES, max_pairs=0)
    with pytest.raises(TypeError, match="expected an RCNN"):
        fit_boxes(FasterRCNN(AlexNetConfig(width=8), 32, 3, hidden_dim=8), SAMPLES)  # type: ignore
