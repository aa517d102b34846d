"""Detections by Soft-NMS, over all classes at once, and by a threshold a class."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn import FasterRCNNConfig
from mlx_rcnn.heads import DetectionRule, select_detections
from mlx_rcnn.heads.detections import check_thresholds, detection_rule
from mlx_rcnn.structures import Proposals
from reference import slow_clip, slow_decode, slow_nms
from suppression import slow_soft_nms

SIZE = (60, 80)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def scene(seed, count, classes, agnostic=False):
    """Crowded proposals whose (proposal, class) scores all differ."""
    rng = np.random.default_rng(seed)
    corner = np.repeat(rng.uniform(0, [50, 30], (-(-count // 5), 2)), 5, axis=0)[:count]
    corner = corner + rng.normal(0, 3, corner.shape)
    boxes = np.concatenate([corner, corner + rng.uniform(8, 25, (count, 2))], axis=1)
    logits = rng.normal(0, 1.5, (count, classes))
    deltas = rng.normal(0, 1, (count, 4 if agnostic else 4 * classes))
    return [np.asarray(v, np.float32) for v in (logits, deltas, boxes)]


def slow(logits, deltas, boxes, rule):
    """One image, a pair at a time; boxes, scores and labels."""
    wide = np.asarray(logits, np.float64)
    scores = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    least = np.broadcast_to(rule.score_thresh, scores.shape[1] - 1)
    found = []
    for i, c in np.ndindex(scores.shape):
        delta = deltas[i] if deltas.shape[1] == 4 else deltas[i].reshape(-1, 4)[c]
        box = slow_clip(slow_decode(delta, boxes[i], WEIGHTS), SIZE)
        if c > 0 and scores[i, c] > least[c - 1] and min(box[2:] - box[:2]) >= rule.min_size:
            found.append((*box, scores[i, c], c))
    found = np.array(found).reshape(-1, 6)
    labels = None if rule.agnostic else found[:, 5]
    if rule.nms_kind == "hard":
        groups = np.zeros(len(found)) if labels is None else labels
        kept = slow_nms(found[:, :4], found[:, 4], rule.nms_thresh, groups)
        picks = [(row, found[row, 4]) for row in kept]
    else:
        bound = least[found[:, 5].astype(int) - 1]
        options = (rule.nms_kind, rule.nms_thresh, rule.nms_sigma, labels, bound)
        picks = slow_soft_nms(found[:, :4], found[:, 4], *options)
    rows = [row for row, _ in picks[: rule.top_k]]
    return found[rows, :4], np.array([v for _, v in picks[: rule.top_k]]), found[rows, 5]


def select(arrays, rule, candidates=1024, rounds=200):
    logits, deltas, boxes = (mx.array(v)[None] for v in arrays)
    valid = mx.ones(boxes.shape[:2], dtype=mx.bool_)
    proposals = Proposals(boxes, mx.zeros(valid.shape), valid, mx.array(True))
    return select_detections(logits, deltas, proposals, mx.array([SIZE]), rule, candidates, rounds)


def assert_same(found, expected):
    valid = np.array(found.valid[0])
    assert not (np.diff(valid.astype(int)) > 0).any()
    boxes, scores, labels = (np.array(v[0])[valid] for v in found[:3])
    np.testing.assert_array_equal(labels, expected[2])
    np.testing.assert_allclose(scores, expected[1], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(boxes, expected[0], atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9999),
    st.integers(1, 20),
    st.integers(2, 5),
    st.sampled_from(["hard", "linear", "gaussian"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.3, 0.5]),
    st.integers(1, 40),
    st.integers(1, 90),
)
def test_oracle(seed, count, classes, kind, agnostic, by_class, overlap, top_k, candidates):
    arrays = scene(seed, count, classes, agnostic=seed % 2 == 0)
    each = np.random.default_rng(seed).uniform(0, 0.5, classes - 1).astype(np.float32)
    least = tuple(each.tolist()) if by_class else 0.05
    rule = DetectionRule(least, overlap, top_k, nms_kind=kind, agnostic=agnostic)
    expected = slow(*arrays, rule)
    found = select(arrays, rule)
    assert found.exact.item()
    assert_same(found, expected)
    few = select(arrays, rule, candidates)  # right, or it says that it is not
    if few.exact.item():
        assert_same(few, expected)
    else:
        assert candidates < count * (classes - 1)


def test_soft_nms_looks_further_than_its_first_candidates():
    """Ten times one box, 0.9 to 0.81, lose to a box of 0.5 elsewhere, the eleventh candidate."""
    boxes = np.array([[0, 0, 20, 20]] * 10 + [[40, 30, 60, 50]], np.float32)
    scores = np.array([0.9 - 0.01 * i for i in range(10)] + [0.5])
    arrays = np.log(np.stack([1 - scores, scores], axis=1)), np.zeros((11, 8)), boxes
    arrays = [np.asarray(v, np.float32) for v in arrays]
    rule = DetectionRule(0.01, 0.5, 2, nms_kind="linear")
    for candidates in (1, 2, 5, 10):
        assert not select(arrays, rule, candidates).exact.item()
    found = select(arrays, rule, 11)
    assert found.exact.item()
    assert found.boxes[0, 1].tolist() == [40, 30, 60, 50]
    np.testing.assert_allclose(np.array(found.scores[0]), [0.9, 0.5], rtol=1e-5)
    # Fewer candidates than are asked for are never enough, though none lowers another.
    apart = np.array([[9 * i, 0, 9 * i + 8, 8] for i in range(8)], np.float32)
    arrays = [arrays[0][:8], arrays[1][:8], apart]
    rule = rule._replace(top_k=6)
    assert [select(arrays, rule, n).exact.item() for n in (2, 5, 6, 8)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_class_that_fell_below_its_threshold_takes_no_place():
    """Class 1 needs 0.5: its second box falls to 0.4 and is out, class 2's best of 0.3 is in."""
    boxes = np.array([[0, 0, 20, 20], [0, 0, 20, 10], [40, 30, 60, 50]], np.float32)
    scores = np.array([[0.05, 0.9, 0.05], [0.1, 0.8, 0.1], [0.6, 0.1, 0.3]])
    arrays = [np.asarray(v, np.float32) for v in (np.log(scores), np.zeros((3, 12)), boxes)]
    rule = DetectionRule((0.5, 0.2), 0.5, 2, nms_kind="linear")
    found = select(arrays, rule)
    assert found.valid[0].tolist() == [True, True] and found.labels[0].tolist() == [1, 2]
    np.testing.assert_allclose(np.array(found.scores[0]), [0.9, 0.3], rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_nothing(kind):
    rule = DetectionRule(0.05, 0.5, 5, nms_kind=kind)
    none = select([np.zeros((0, n), np.float32) for n in (3, 12, 4)], rule)
    assert none.boxes.shape == (1, 0, 4) and none.exact.item()
    found = select(scene(0, 10, 3), rule._replace(score_thresh=1.0))
    assert found.exact.item() and not mx.any(found.valid).item()


def config(**options):
    return FasterRCNNConfig(None, 4, 4, **options)


@pytest.mark.parametrize("given", [[0.1, 0.5, 0.2], (0.1, 0.5, 0.2), np.array([0.1, 0.5, 0.2])])
def test_thresholds_by_class(given):
    assert detection_rule(config(), given).score_thresh == (0.1, 0.5, 0.2)
    assert detection_rule(config(box_score_thresh=(0.1, 0.5, 0.2))).score_thresh == (0.1, 0.5, 0.2)
    assert detection_rule(config(box_score_thresh=(0.1, 0.5, 0.2)), 0.3).score_thresh == 0.3
    for one in (np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5):
        assert detection_rule(config(), one).score_thresh == 0.5


def test_wrong_thresholds_by_class():
    for wrong, error in (([0.1, 2, 0.3], ValueError), ("0.5", TypeError), ([[0.1] * 3], TypeError)):
        with pytest.raises(error, match="score_thresh="):
            detection_rule(config(), wrong)
    message = "score_thresh has 2 entries: expected one number, or 3, one a class without the"
    with pytest.raises(ValueError, match=message):
        check_thresholds(detection_rule(config(), [0.5, 0.5]), 4)
    with pytest.raises(ValueError, match=f"box_{message}"):
        config(box_score_thresh=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"box_score_thresh=\(0.5, 2, 0.1\): expected numbers in"):
        config(box_score_thresh=[0.5, 2, 0.1])
    assert check_thresholds(SimpleNamespace(score_thresh=0.5), 4) is None
