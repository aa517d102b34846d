"""Faster R-CNN: from whatever is given to what was promised, whatever the backbone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mlx_rcnn import FasterRCNN, ResNetFPNConfig
from mlx_rcnn.models import faster_rcnn
from mlx_rcnn.models.faster_rcnn import batch_rows, inference, roi_scales
from small import OPTIONS, PHOTOS, photo

Found = dict[str, np.ndarray]
SQUARE = np.random.default_rng(4).integers(0, 256, (3, 90, 90, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(small_model: Callable[[str], FasterRCNN]) -> FasterRCNN:
    return small_model("faster_rcnn")


def check(found: Found, height: int, width: int, classes: int, top_k: int = 100) -> None:
    """What holds for every result."""
    count = len(found["scores"])
    assert count <= top_k
    assert found["boxes"].shape == (count, 4) and found["boxes"].dtype == np.float32
    assert found["scores"].shape == (count,) and found["scores"].dtype == np.float32
    assert found["labels"].shape == (count,) and found["labels"].dtype == np.int32
    assert all(isinstance(value, np.ndarray) for value in found.values())
    assert (np.diff(found["scores"]) <= 0).all()
    assert ((found["labels"] >= 1) & (found["labels"] < classes)).all()
    x1, y1, x2, y2 = found["boxes"].T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x1 < x2).all() and (y1 < y2).all()
    assert (x2 <= width + 1e-3).all() and (y2 <= height + 1e-3).all()


def same(a: Found, b: Found, tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    np.testing.assert_array_equal(a["labels"], b["labels"])
    for key in ("boxes", "scores"):
        np.testing.assert_allclose(a[key], b[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["deck.jpg", "stop.jpg", "dogs.jpg"])
def test_results_are_well_formed(model: FasterRCNN, name: str) -> None:
    image = photo(name)
    results = model.predict(image)
    assert isinstance(results, list) and len(results) == 1
    assert list(results[0]) == ["boxes", "scores", "labels"]
    assert len(results[0]["scores"]) > 20
    check(results[0], *image.shape[:2], classes=5)


def test_equal_pixels_give_equal_results(model: FasterRCNN) -> None:
    path, pixels = PHOTOS / "stop.jpg", photo("stop.jpg")
    expected = model.predict(path)[0]
    forms = [str(path), Image.open(path), pixels, np.asfortranarray(pixels), mx.array(pixels)]
    for form in (*forms, [path], (pixels,), pixels[None]):
        same(model.predict(form)[0], expected)
    floats = pixels.astype(np.float32) / 255
    expected = model.predict(floats)[0]
    for form in (mx.array(floats), floats.astype(np.float64), floats[None], mx.array(floats[None])):
        same(model.predict(form)[0], expected)
    same(expected, model.predict(pixels)[0], tolerance=1e-3)  # 1 / 255 rounds


def test_flipped_views_are_read_as_they_look(model: FasterRCNN) -> None:
    view = photo()[:, ::-1]
    same(model.predict(view)[0], model.predict(view.copy())[0])


def test_a_batch_of_equal_sizes_equals_singles(model: FasterRCNN) -> None:
    batch = model.predict(list(SQUARE))
    assert len(batch) == 3
    for found, image in zip(batch, SQUARE, strict=True):
        same(found, model.predict(image)[0], tolerance=1e-2)
    floats = SQUARE.astype(np.float32) / 255
    for found, other in zip(model.predict(floats), batch, strict=True):
        same(found, other, tolerance=1e-2)


def test_unequal_sizes_each_in_their_own_pixels(model: FasterRCNN) -> None:
    images = [photo(), photo("stop.jpg"), photo("dogs.jpg")[:40, :150]]
    results = model.predict(images)
    assert [len(found["scores"]) > 0 for found in results] == [True] * 3
    for found, image in zip(results, images, strict=True):
        check(found, *image.shape[:2], classes=5)


@pytest.mark.parametrize("size", [(1, 1), (4000, 30), (30, 4000), (2, 3), (301, 97)])
def test_odd_sizes(model: FasterRCNN, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    check(model.predict(image)[0], *size, classes=5)


def test_predict_twice_is_the_same(model: FasterRCNN) -> None:
    same(model.predict(photo())[0], model.predict(photo())[0])


def test_top_k_is_the_head_of_the_list(model: FasterRCNN) -> None:
    everything = model.predict(photo())[0]
    for top_k in (1, 7, len(everything["scores"]), 10_000):
        found = model.predict(photo(), top_k=top_k)[0]
        same(found, {key: value[:top_k] for key, value in everything.items()})


def test_thresholds(model: FasterRCNN) -> None:
    everything = model.predict(photo())[0]
    above = model.predict(photo(), score_thresh=0.5)[0]
    keep = everything["scores"] > 0.5
    assert 0 < keep.sum() < len(keep)
    same(above, {key: value[keep] for key, value in everything.items()})
    least = float(everything["scores"][3])  # exclusive: the fourth is not above itself
    assert len(model.predict(photo(), score_thresh=least)[0]["scores"]) == 3
    tight = model.predict(photo(), nms_thresh=0.0)[0]
    loose = model.predict(photo(), nms_thresh=1.0)[0]
    assert len(tight["scores"]) < len(everything["scores"]) < len(loose["scores"])
    for label in range(1, 5):  # at 0 no two boxes of a class share any area
        boxes = tight["boxes"][tight["labels"] == label]
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=-1)
        assert (shared[~np.eye(len(boxes), dtype=bool)] == 0).all()


def test_nothing_found(model: FasterRCNN) -> None:
    for found in model.predict([photo(), SQUARE[0]], score_thresh=1.0):
        assert {key: value.shape for key, value in found.items()} == {
            "boxes": (0, 4), "scores": (0,), "labels": (0,)
        }  # fmt: skip
        check(found, 220, 330, classes=5)


@pytest.mark.parametrize("top_k", [100, 1000])
def test_every_candidate_counts(
    model: FasterRCNN, monkeypatch: pytest.MonkeyPatch, top_k: int
) -> None:
    """All 100 x 4 pairs pass a threshold of 0; with room for 5 they come in several attempts."""
    expected = model.predict(photo(), score_thresh=0.0, top_k=top_k)[0]
    assert len(expected["scores"]) == min(top_k, 100) or top_k > 100
    monkeypatch.setattr(faster_rcnn, "CANDIDATES", 10**6)
    same(model.predict(photo(), score_thresh=0.0, top_k=top_k)[0], expected)
    few = {"score_thresh": 0.0, "top_k": 2, "nms_thresh": 0.0}
    expected = model.predict(photo(), **few)[0]
    monkeypatch.setattr(faster_rcnn, "CANDIDATES", 1)
    same(model.predict(photo(), **few)[0], expected)


def test_suppression_that_does_not_settle_is_done_again(
    model: FasterRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.predict([photo(), SQUARE[0]])
    attempts, propose = [], FasterRCNN._propose

    def counted(self, features, sizes, input_size, rounds):
        attempts.append(rounds)
        assert len(attempts) < 9
        return propose(self, features, sizes, input_size, rounds)

    monkeypatch.setattr(FasterRCNN, "_propose", counted)
    monkeypatch.setattr(faster_rcnn, "ROUNDS", 1)
    for found, want in zip(model.predict([photo(), SQUARE[0]]), expected, strict=True):
        same(found, want)
    assert attempts[0] == 1 and len(attempts) > 1


def test_few_proposals_and_few_rounds_still_settle(
    fresh_model: Callable[..., FasterRCNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of overlapping boxes is longer than the anchors kept of a level."""
    options = {"rpn_pre_nms_top_n_test": 1, "rpn_post_nms_top_n_test": 5, "box_nms_thresh": 0.0}
    model = fresh_model("faster_rcnn", box_score_thresh=0.0, **options)
    expected = model.predict(photo())[0]
    attempts, propose = [], FasterRCNN._propose

    def counted(self, *args):
        attempts.append(args[-1])
        assert len(attempts) < 9, "does not end"
        return propose(self, *args)

    monkeypatch.setattr(FasterRCNN, "_propose", counted)
    monkeypatch.setattr(faster_rcnn, "ROUNDS", 1)
    same(model.predict(photo())[0], expected)


def test_training_mode_neither_matters_nor_changes(
    fresh_model: Callable[..., FasterRCNN],
) -> None:
    net = ResNetFPNConfig(depth=18, num_classes=0, out_channels=8)
    model = FasterRCNN(net, 8, 3, **OPTIONS, box_score_thresh=0.0)
    model.train()
    model.backbone.net.layer1[0].eval()
    flags = [module.training for module in model.modules()]
    assert 0 < sum(flags) < len(flags)
    before = dict(tree_flatten(model.parameters()))
    found = model.predict(photo())[0]
    model(mx.random.normal((1, 64, 64, 3)))
    assert [module.training for module in model.modules()] == flags
    after = dict(tree_flatten(model.parameters()))
    assert all(mx.array_equal(value, after[key]) for key, value in before.items())
    same(model.eval().predict(photo())[0], found)
    with pytest.raises(RuntimeError), inference(model.train()):
        raise RuntimeError
    assert all(module.training for module in model.modules())


class Maps(nn.Module):
    """Strided convolutions: ``levels`` maps, finest first, or one map for 0."""

    def __init__(self, levels: int, channels: int = 8):
        super().__init__()
        self.levels = levels
        self.stem = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.down = [nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(max(levels - 1, 0))]

    def __call__(self, x: mx.array) -> Any:
        maps = [nn.relu(self.stem(x))]
        for conv in self.down:
            maps.append(nn.relu(conv(maps[-1])))
        return maps if self.levels else maps[0]


@pytest.mark.parametrize("levels", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("pyramid", [False, True])
def test_any_backbone(levels: int, pyramid: bool) -> None:
    options = {**OPTIONS, "use_fpn": pyramid, "box_score_thresh": 0.0}
    model = FasterRCNN(Maps(levels), 8, 3, **options)
    if levels == 0 and pyramid:
        with pytest.raises(ValueError, match="use_fpn=True: expected a list of maps"):
            model.predict(photo())
        return
    assert model.rpn.anchors.per_cell == (3 if pyramid else 9)
    found = model.predict([photo(), SQUARE[0]])
    check(found[0], 220, 330, classes=3)
    assert len(found[0]["scores"]) > 0
    logits, deltas = model(mx.random.normal((2, 64, 96, 3)))
    assert logits.shape[0] == 2 and logits.shape[2] == 3
    assert deltas.shape == (*logits.shape[:2], 12)
    features = model._features(mx.zeros((1, 64, 96, 3)))
    scales = roi_scales(features, 64, model.config)  # the four finest: 1/4, 1/8, ...
    assert scales == [2.0 ** -(2 + i) for i in range(min(max(levels, 1), 4))]


def test_class_agnostic_regression() -> None:
    options = {**OPTIONS, "class_agnostic_bbox": True, "box_score_thresh": 0.0}
    model = FasterRCNN(Maps(2), 8, 3, **options)
    logits, deltas = model(mx.random.normal((1, 64, 64, 3)))
    assert deltas.shape == (1, logits.shape[1], 4)
    check(model.predict(photo())[0], 220, 330, classes=3)


def test_explicit_stride() -> None:
    """Where it equals the inferred one nothing changes; it also sets the scale of pooling."""
    for levels, stride in ((0, 4), (2, (4, 8))):
        options = {**OPTIONS, "use_fpn": levels > 0, "box_score_thresh": 0.0}
        mx.random.seed(1)
        inferred = FasterRCNN(Maps(levels), 8, 3, **options)
        mx.random.seed(1)
        explicit = FasterRCNN(Maps(levels), 8, 3, anchor_stride=stride, **options)
        same(explicit.predict(photo())[0], inferred.predict(photo())[0])
    wrong = FasterRCNN(Maps(2), 8, 3, anchor_stride=(4, 8, 16), **OPTIONS)
    with pytest.raises(ValueError, match=r"anchor_stride=\(4, 8, 16\): .* each of the 2 maps"):
        wrong.predict(photo())
    wrong = FasterRCNN(Maps(2), 8, 3, anchor_sizes=((32,), (64,), (128,)), **OPTIONS)
    with pytest.raises(ValueError, match="anchor_sizes=.* each of the 2 maps"):
        wrong.predict(photo())


def test_wrong_backbones_are_named() -> None:
    model = FasterRCNN(Maps(2), 16, 3, **OPTIONS)
    with pytest.raises(ValueError, match=r"feat_channels=16: .* shape \(1, 24, 40, 8\), expected"):
        model.predict(photo())
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 3\) network input, got \(2, 3\)"):
        model(mx.zeros((2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_thresh": 2}, r"score_thresh=2: expected a number in \[0, 1\]"),
        ({"score_thresh": -0.1}, "score_thresh=-0.1"),
        ({"score_thresh": float("nan")}, "score_thresh=nan"),
        ({"nms_thresh": 2.0}, "nms_thresh=2.0"),
        ({"top_k": 0}, "top_k=0: expected a positive integer"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_k": True}, "top_k=True"),
    ],
)
def test_wrong_limits(model: FasterRCNN, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(photo(), **options)


def test_bad_images(model: FasterRCNN) -> None:
    for images in ([], np.full((8, 8, 3), np.nan), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match="(empty|NaN|alpha)"):
            model.predict(images)


def test_floats_up_to_255_warn_and_normal_input_does_not(model: FasterRCNN) -> None:
    with pytest.warns(UserWarning, match=r"floats from 0 to 25\d: expected floats in \[0, 1\]"):
        model.predict(photo().astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(model.predict(mx.random.normal((2, 32, 48, 3)))) == 2


def test_batch_rows() -> None:
    rows = batch_rows(mx.arange(16).reshape(2, 2, 4).astype(mx.float32))
    assert rows[:, 0].tolist() == [0, 0, 1, 1]
    assert rows[3].tolist() == [1, 12, 13, 14, 15]
