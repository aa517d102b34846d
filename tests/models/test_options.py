"""Options of the box stage, end to end through ``predict`` and ``get_loss``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

import tiny
from mlx_rcnn import FasterRCNN, FastRCNNPredictor
from mlx_rcnn.inputs.transform import boxes_to_original, preprocess
from mlx_rcnn.models import boxing
from reference import slow_nms
from small import BACKBONE, OPTIONS, check, photo, same
from suppression import slow_soft_nms

Models = Callable[..., FasterRCNN]
Found = dict[str, np.ndarray]
KINDS: list[dict[str, Any]] = [
    {"box_nms_kind": "linear"},
    {"box_nms_kind": "gaussian", "box_nms_sigma": 0.3},
    {"box_nms_kind": "linear", "box_nms_agnostic": True, "box_nms_thresh": 0.3},
    {"box_nms_agnostic": True},
    {"box_nms_kind": "linear", "box_score_thresh": (0.05, 0.3, 0.1, 0.2)},
]


def by_hand(model: FasterRCNN, image: np.ndarray, top_k: int = 100) -> Found:
    """From the network's own outputs, suppressed a box at a time."""
    config, net = model.config, model.to_predict()
    batch = preprocess([image], config)
    features = net.features(batch.pixels)
    strides = net.strides(features, batch)
    proposals = net.propose(features, batch, strides)
    outputs = net.box_outputs(net.stage(features, strides), proposals)
    rule = boxing.DetectionRule(0.0, 1.0, 10**6)  # all pairs, decoded and not suppressed
    sizes = mx.array(batch.sizes.astype(np.float32))
    pairs = boxing.select_detections(*outputs, proposals, sizes, rule, 10**6, 10**3)
    valid = np.array(pairs.valid[0])
    boxes, scores, labels = (np.array(v[0])[valid] for v in pairs[:3])
    least = np.broadcast_to(np.float32(config.box_score_thresh), config.num_classes - 1)[labels - 1]
    passing = scores > least
    boxes, scores, labels, least = (v[passing] for v in (boxes, scores, labels, least))
    groups = None if config.box_nms_agnostic else labels
    if config.box_nms_kind == "hard":
        groups = np.zeros(len(labels)) if groups is None else groups
        picks = [
            (row, scores[row]) for row in slow_nms(boxes, scores, config.box_nms_thresh, groups)
        ]
    else:
        options = (config.box_nms_kind, config.box_nms_thresh, config.box_nms_sigma, groups, least)
        picks = slow_soft_nms(boxes, scores, *options)
    rows = [row for row, _ in picks[:top_k]]
    return {
        "boxes": boxes_to_original(boxes[rows], batch.sizes[0], batch.original_sizes[0]),
        "scores": np.array([score for _, score in picks[:top_k]], np.float32),
        "labels": labels[rows],
    }


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_suppression_against_a_loop(fresh_model: Models, options: dict[str, Any]) -> None:
    model = fresh_model("faster_rcnn", **options)
    [found], expected = model.predict(photo()), by_hand(model, photo())
    assert len(found["scores"]) == len(expected["scores"]) > 20
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-3)
    # Scores that lie nearer than the rounding of products may change places.
    apart = np.abs(np.diff(expected["scores"], prepend=2, append=-1)) > 1e-5
    apart = apart[1:] & apart[:-1]
    assert apart.mean() > 0.7
    for name in ("boxes", "labels"):
        np.testing.assert_allclose(found[name][apart], expected[name][apart], atol=1e-3)
    check(found, 220, 330, classes=5)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("top_k", [1, 7, 100])
def test_few_candidates_give_the_same(
    fresh_model: Models, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], top_k: int
) -> None:
    """Suppression is repeated with more of them until no other can matter."""
    model = fresh_model("faster_rcnn", **options)
    monkeypatch.setattr(boxing, "CANDIDATES", 10**6)
    [expected] = model.predict(photo(), top_k=top_k)
    seen, select = [], boxing.select_detections

    def counted(*args: Any) -> Any:
        seen.append(args[5])
        return select(*args)

    monkeypatch.setattr(boxing, "select_detections", counted)
    monkeypatch.setattr(boxing, "CANDIDATES", 1)
    rounds = boxing.first_rounds()
    monkeypatch.setattr(boxing, "first_rounds", lambda: 8 * rounds)  # begins with an eighth
    same(model.predict(photo(), top_k=top_k)[0], expected)
    assert seen[0] == top_k // 2 and seen == sorted(seen)
    assert top_k == 100 or len(seen) > 1  # 50 are all that pass the threshold


def test_a_batch_equals_singles(fresh_model: Models) -> None:
    model = fresh_model("faster_rcnn", box_nms_kind="gaussian")
    images = [photo()[:90, :90], photo()[90:180, :90]]
    for found, image in zip(model.predict(images), images, strict=True):
        [alone] = model.predict(image)
        np.testing.assert_allclose(found["scores"], alone["scores"], atol=1e-3)


def test_thresholds_by_class(fresh_model: Models) -> None:
    model = fresh_model("faster_rcnn")
    everything, each = model.predict(photo(), score_thresh=0.0)[0], [0.1, 1.0, 0.3, 0.05]
    [found] = model.predict(photo(), score_thresh=each)
    [plain] = model.predict(photo(), score_thresh=0.05, top_k=1000)
    keep = plain["scores"] > np.array(each)[plain["labels"] - 1]
    assert 0 < keep.sum() < 100 < len(everything["scores"]) + 1
    same(found, {name: value[keep] for name, value in plain.items()})
    same(model.predict(photo(), score_thresh=[0.05] * 4)[0], model.predict(photo())[0])


def test_thresholds_of_another_number_are_refused_before_any_work(
    fresh_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh_model("faster_rcnn")
    monkeypatch.setattr(type(model.backbone), "__call__", None)
    with pytest.raises(ValueError, match="score_thresh has 3 entries: expected one number, or 4"):
        model.predict("no such file.jpg", score_thresh=[0.1, 0.2, 0.3])
    # The predictor as it is now tells how many classes there are.
    model.roi_heads.box_predictor = FastRCNNPredictor(64, 3)
    with pytest.raises(ValueError, match="score_thresh has 4 entries: expected one number, or 2"):
        model.predict("no such file.jpg", score_thresh=[0.1] * 4)
    with pytest.raises(FileNotFoundError):
        model.predict("no such file.jpg", score_thresh=[0.1] * 2)


@pytest.mark.parametrize("pooling", ["align", "pool"])
def test_pooling_and_class_agnostic_boxes(pooling: str) -> None:
    model = FasterRCNN(
        BACKBONE, 32, 5, **OPTIONS, roi_pooling=pooling, class_agnostic_bbox=True
    ).eval()
    logits, deltas = model(mx.zeros((2, 64, 96, 3)))
    assert logits.shape[2] == 5 and deltas.shape[2] == 4
    images = [photo(), photo("dogs.jpg")[:40, :150]]  # of unequal sizes
    for found, image in zip(model.predict(images, score_thresh=0.0), images, strict=True):
        check(found, *image.shape[:2], classes=5)
        assert len(found["scores"]) > 0


MORE_LOSSES: list[dict[str, Any]] = [
    {"box_reg_loss": "l1", "rpn_reg_loss": "l1"},
    {"box_smooth_l1_beta": 1.0, "rpn_smooth_l1_beta": 1.0},
]
LOSSES: list[Any] = [
    *(pytest.param(options, marks=pytest.mark.slow) for options in MORE_LOSSES),
    {"box_reg_loss": "giou", "rpn_reg_loss": "giou"},
    {"box_smooth_l1_beta": 0.0, "rpn_smooth_l1_beta": 0.0},
    {"class_agnostic_bbox": True, "box_reg_loss": "giou"},
    {"roi_pooling": "pool"},
]


@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_training_goes_down(options: dict[str, Any]) -> None:
    model = tiny.build(**options).train()
    [batch] = tiny.batches(2)
    optimizer = optim.AdamW(learning_rate=3e-3)
    losses = lambda: model.get_loss(batch.images, batch.targets, key=mx.random.key(1))  # noqa: E731
    step = nn.value_and_grad(model, lambda: (lambda v: (v["total_loss"], v))(losses()))
    seen: list[dict[str, float]] = []
    for _ in range(40):
        (_, each), gradients = step()
        optimizer.update(model, gradients)
        mx.eval(each, model.parameters(), optimizer.state)
        seen.append({name: value.item() for name, value in each.items()})
    assert np.isfinite([list(v.values()) for v in seen]).all()
    for name, share in (("total_loss", 0.8), ("rpn_reg_loss", 0.9)):
        start, end = (np.mean([v[name] for v in part]) for part in (seen[:3], seen[-5:]))
        assert end < share * start, name
