"""Cascade R-CNN: box heads in a row, in prediction, raw outputs and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import CascadeMaskRCNN, CascadeRCNN, CascadeRCNNConfig, FasterRCNN, MaskRCNN
from mlx_rcnn.heads.cascade import average_scores, refine_boxes, without_empty
from mlx_rcnn.heads.rois import batch_rows
from mlx_rcnn.ops import clip_boxes, decode_boxes
from mlx_rcnn.structures import Proposals
from small import photo, same, untrained

KINDS = ("cascade_rcnn", "cascade_mask_rcnn")
IMAGES = [photo()[:100, :140], photo("stop.jpg")[:130, :90]]
TARGETS = [
    {
        "boxes": [[10, 10, 90, 80], [60, 20, 130, 95]],
        "labels": [1, 4],
        "masks": np.ones((2, 100, 140)),
    },
    {"boxes": np.zeros((0, 4)), "labels": [], "masks": np.zeros((0, 130, 90))},
]


def seeded(kind: str, **options: Any) -> Any:
    """Weights that move boxes and tell classes apart."""
    mx.random.seed(3)
    model = untrained(kind, **options)
    for predictor in model.roi_heads.box_predictor:
        predictor.bbox_pred.weight = predictor.bbox_pred.weight * 200
        predictor.cls_score.weight = predictor.cls_score.weight * 20
    model.eval()
    return model


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return seeded(request.param)


def test_detections_are_those_of_the_steps_one_by_one(model: Any) -> None:
    """By hand: each head on the boxes of the one before, probabilities averaged."""
    x = mx.random.normal((2, 96, 128, 3), key=mx.random.key(0))
    logits, deltas, *_ = model(x)
    sizes = mx.array([[96.0, 128.0]] * 2)
    from mlx_rcnn.structures import Batch

    batch = Batch(x, np.array([[96, 128]] * 2), np.array([[96, 128]] * 2))
    features = model.features(x)
    strides = model.strides(features, batch)
    boxes = model.propose(features, batch, strides).boxes
    stage, probabilities = model.stage(features, strides), []
    heads = model.roi_heads
    for k, weights in enumerate(model.config.cascade_reg_weights):
        pooled = stage.pool(batch_rows(boxes), (7, 7))
        scores, moves = heads.box_predictor[k](heads.box_head[k](pooled))
        probabilities.append(np.array(mx.softmax(scores, axis=-1)))
        assert moves.shape[1] == 4
        last, moves = boxes, moves.reshape(2, -1, 4)
        boxes = clip_boxes(decode_boxes(moves, boxes, weights), sizes)
    assert np.abs(np.array(boxes) - np.array(last)).max() > 1
    mean = np.mean(probabilities, axis=0).reshape(logits.shape)
    np.testing.assert_allclose(np.array(mx.softmax(logits, axis=-1)), mean, atol=2e-6)
    np.testing.assert_allclose(np.array(deltas), np.array(moves), atol=1e-5)


def test_predictions(model: Any) -> None:
    results = model.predict(IMAGES)
    alone = [model.predict(image)[0] for image in IMAGES]
    for found, image, single in zip(results, IMAGES, alone, strict=True):
        assert len(found["scores"]) == len(single["scores"]) > 0
        assert (np.diff(found["scores"]) <= 0).all() and found["scores"].min() > 0.05
        assert found["boxes"].min() >= 0
        assert (found["boxes"].max(axis=0) <= [image.shape[1], image.shape[0]] * 2).all()
        if model.needs_masks:
            assert found["masks"].shape == (len(found["scores"]), *image.shape[:2])
    assert len(model.predict(IMAGES[0], top_k=3)[0]["scores"]) == 3
    assert len(model.predict(IMAGES[0], score_thresh=1.0)[0]["scores"]) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resample", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_losses_and_gradients(kind: str, resample: bool, each: bool) -> None:
    if kind == "cascade_rcnn" and each:
        pytest.skip("masks only")
    options = {"cascade_mask_heads": True} if each else {}
    model = seeded(kind, cascade_resample=resample, rpn_post_nms_top_n_train=40, **options)
    model.train()

    def total(net: Any) -> mx.array:
        return net.get_loss(IMAGES, TARGETS, key=mx.random.key(1))["total_loss"]

    losses = model.get_loss(IMAGES, TARGETS, key=mx.random.key(1))
    names = ["rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss"]
    assert list(losses) == [*names, *(["mask_loss"] if "mask" in kind else []), "total_loss"]
    parts = sum(v.item() for name, v in losses.items() if name != "total_loss")
    assert losses["total_loss"].item() == pytest.approx(parts, rel=1e-5)
    _, gradients = nn.value_and_grad(model, total)(model)
    for name, value in tree_flatten(gradients):
        assert mx.all(mx.isfinite(value)).item(), name
        if "roi_heads" in name:
            assert mx.any(value != 0).item(), name
    again = model.get_loss(IMAGES, TARGETS, key=mx.random.key(1))
    assert all(mx.array_equal(again[name], losses[name]).item() for name in losses)


def test_nothing_to_learn_and_no_proposals() -> None:
    model = seeded("cascade_mask_rcnn", cascade_mask_heads=True)
    losses = model.get_loss(IMAGES[1:], TARGETS[1:], key=mx.random.key(1))
    assert losses["roi_reg_loss"].item() == losses["mask_loss"].item() == 0
    assert all(mx.isfinite(v).item() for v in losses.values())
    model = seeded("cascade_rcnn", rpn_score_thresh=1.0)  # no proposal is left
    assert len(model.predict(IMAGES[0])[0]["scores"]) == 0
    losses = model.get_loss(IMAGES, TARGETS, key=mx.random.key(1))
    assert all(mx.isfinite(v).item() for v in losses.values())


def test_loss_weights_and_the_scale_of_gradients() -> None:
    kinds = {
        "dropout": 0.0,
        "box_batch_size_per_image": 10**4,
        "box_positive_fraction": 0.9,
        "rpn_post_nms_top_n_train": 40,
    }
    plain = seeded("cascade_rcnn", **kinds)
    found = plain.get_loss(IMAGES, TARGETS, key=mx.random.key(1))
    only = [
        seeded("cascade_rcnn", cascade_loss_weights=tuple(float(i == k) for i in range(3)), **kinds)
        for k in range(3)
    ]
    each = [net.get_loss(IMAGES, TARGETS, key=mx.random.key(1)) for net in only]
    for name in ("roi_cls_loss", "roi_reg_loss"):
        assert found[name].item() == pytest.approx(sum(e[name].item() for e in each), rel=1e-5)
    # A scale changes gradients of what lies below the pooled features, not the losses.
    scaled = seeded("cascade_rcnn", cascade_grad_scale=0.25, **kinds)

    def gradient(net: Any) -> dict[str, mx.array]:
        def loss(m: Any) -> mx.array:
            return m.get_loss(IMAGES, TARGETS, key=mx.random.key(1))["roi_cls_loss"]

        value, tree = nn.value_and_grad(net, loss)(net)
        return {"loss": value, **dict(tree_flatten(tree))}

    one, other = gradient(plain), gradient(scaled)
    assert one["loss"].item() == pytest.approx(other["loss"].item(), rel=1e-5)
    below, above = "backbone.fpn.layer_blocks.0.0.weight", "roi_heads.box_head.1.fc7.weight"
    np.testing.assert_allclose(other[below] * 4, one[below], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(other[above], one[above], rtol=1e-3, atol=1e-7)


def test_refined_boxes_by_hand() -> None:
    config = CascadeRCNNConfig(None, 4, 3)
    boxes = mx.array([[[10.0, 10, 30, 50], [0, 0, 10, 10]]])
    valid = mx.array([[True, True]])
    given = Proposals(boxes, valid.astype(mx.float32), valid, mx.array(True))
    deltas = mx.array([[[5.0, -1, 5 * np.log(2), 0], [-200, 0, 0, 0]]])
    rule = config.box_stages[0]  # 10, 10, 5, 5
    found = refine_boxes(given, mx.zeros((1, 2, 3)), deltas, mx.array([[60.0, 45.0]]), rule)
    # Centre (20, 30) moves by (0.5 * 20, -0.1 * 40), the width doubles; cut at 45.
    np.testing.assert_allclose(found.boxes[0, 0], [10, 6, 45, 46], atol=1e-4)
    assert without_empty(found).valid[0].tolist() == [True, False]
    # Class specific deltas: those of the best class but the background.
    many = mx.zeros((1, 2, 3, 4)) + mx.array([0.0, 0, 1])[:, None] * deltas[:, :, None, :]
    logits = mx.array([[[9.0, 0, 1], [9, 0, 1]]])
    again = refine_boxes(given, logits, many.reshape(1, 2, 12), mx.array([[60.0, 45.0]]), rule)
    np.testing.assert_allclose(again.boxes, found.boxes)


def test_averages_by_hand() -> None:
    logits = [mx.log(mx.array([[[0.9, 0.1]]])), mx.log(mx.array([[[0.5, 0.5]]]))]
    mean = mx.softmax(average_scores(logits, "probability"), axis=-1)
    np.testing.assert_allclose(mean[0, 0], [0.7, 0.3], rtol=1e-6)
    mean = mx.softmax(average_scores(logits, "logit"), axis=-1)  # 3 : 1, the root of 9 : 1
    np.testing.assert_allclose(mean[0, 0], [0.75, 0.25], rtol=1e-6)
    sure = average_scores([mx.array([[[200.0, -200.0]]])] * 2, "probability")
    assert mx.all(mx.isfinite(sure)).item()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same(kind: str, tmp_path: Path) -> None:
    options = {"cascade_mask_heads": True} if "mask" in kind else {}
    model = seeded(kind, cascade_scores="logit", cascade_loss_weights=(1, 0.5, 0.25), **options)
    mlx_rcnn.save(model, tmp_path / "model")
    again = mlx_rcnn.load(tmp_path / "model")
    assert type(again) is type(model) and again.config.cascade_scores == "logit"
    same(again.predict(IMAGES[0])[0], model.predict(IMAGES[0])[0])
    with pytest.raises(
        ValueError, match=r"does not fit the model with cascade_ious=\(0\.5, 0\.6\)"
    ):
        mlx_rcnn.load(
            tmp_path / "model",
            cascade_ious=(0.5, 0.6),
            cascade_reg_weights=((10, 10, 5, 5),) * 2,
            cascade_loss_weights=(1, 1),
        )


def test_other_models_refuse_its_config_and_weights(tmp_path: Path) -> None:
    config = CascadeRCNNConfig("net", 4, 3)
    for cls in (FasterRCNN, MaskRCNN, CascadeMaskRCNN):
        with pytest.raises(TypeError, match=f"got a CascadeRCNNConfig, expected a {cls.__name__}C"):
            cls(config)
    assert issubclass(CascadeMaskRCNN, CascadeRCNN)
    mlx_rcnn.save(seeded("cascade_rcnn"), tmp_path / "model")
    text = (tmp_path / "model/config.json").read_text()
    (tmp_path / "model/config.json").write_text(text.replace('"cascade_rcnn"', '"faster_rcnn"'))
    with pytest.raises((ValueError, TypeError)) as error:
        mlx_rcnn.load(tmp_path / "model")
    assert "cascade" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cascade_ious": (0.5, 0.7, 0.6)}, "cascade_ious=(0.5, 0.7, 0.6): expected numbers in"),
        ({"cascade_ious": (0.5, 0.6, 1.2)}, "expected numbers in (0, 1]"),
        ({"cascade_ious": ()}, "cascade_ious=()"),
        ({"cascade_ious": (0.5, 0.6)}, "cascade_reg_weights=((10.0, 10.0, 5.0, 5.0), (20.0"),
        ({"cascade_loss_weights": (1, 1)}, "cascade_loss_weights=(1, 1): expected 3 entries"),
        ({"cascade_loss_weights": (1, 1, -1)}, "expected none below 0"),
        ({"cascade_reg_weights": ((1, 1, 1),) * 3}, "expected rows of 4 numbers"),
        ({"cascade_scores": "probabilities"}, "cascade_scores='probabilities': expected one of"),
        ({"res5_head": True}, "res5_head=True: expected False"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        CascadeRCNNConfig("net", 4, 3, **options)
    assert message in str(error.value)
