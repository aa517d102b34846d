"""Faster R-CNN: from whatever is given to what was promised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import mlx_rcnn
from mlx_rcnn import FasterRCNN, ResNetFPNConfig
from mlx_rcnn.checkpoints.weights import cast_weights
from mlx_rcnn.heads.rois import batch_rows
from mlx_rcnn.layers import inference
from mlx_rcnn.models import boxing, proposing
from small import OPTIONS, PHOTOS, check, near, photo, same
from suppression import MODULE as nms  # noqa: N811

SQUARE = np.random.default_rng(4).integers(0, 256, (3, 90, 90, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(small_model: Callable[[str], FasterRCNN]) -> FasterRCNN:
    return small_model("faster_rcnn")


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
    for form in (*forms, [path], (pixels,), pixels[None]):  # all of them bytes
        same(model.predict(form)[0], expected)
    floats = pixels.astype(np.float32) / 255
    expected = model.predict(floats)[0]
    for form in (mx.array(floats), floats.astype(np.float64), floats[None], mx.array(floats[None])):
        same(model.predict(form)[0], expected)
    near(expected, model.predict(pixels)[0])  # 1 / 255 rounds


def test_flipped_views_are_read_as_they_look(model: FasterRCNN) -> None:
    view = photo()[:, ::-1]
    same(model.predict(view)[0], model.predict(view.copy())[0])


def test_a_batch_of_equal_sizes_equals_singles(model: FasterRCNN) -> None:
    batch = model.predict(list(SQUARE))
    assert len(batch) == 3
    for found, image in zip(batch, SQUARE, strict=True):
        near(found, model.predict(image)[0])
    floats = SQUARE.astype(np.float32) / 255
    for found, other in zip(model.predict(floats), batch, strict=True):
        near(found, other)


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
            "boxes": (0, 4),
            "scores": (0,),
            "labels": (0,),
        }
        check(found, 220, 330, classes=5)


@pytest.mark.parametrize("top_k", [100, 1000])
def test_every_candidate_counts(
    model: FasterRCNN, monkeypatch: pytest.MonkeyPatch, top_k: int
) -> None:
    """All 100 x 4 pairs pass a threshold of 0; with room for 5 they come in several attempts."""
    expected = model.predict(photo(), score_thresh=0.0, top_k=top_k)[0]
    assert len(expected["scores"]) > 50
    monkeypatch.setattr(boxing, "CANDIDATES", 10**6)
    same(model.predict(photo(), score_thresh=0.0, top_k=top_k)[0], expected)
    few = {"score_thresh": 0.0, "top_k": 2, "nms_thresh": 0.0}
    expected = model.predict(photo(), **few)[0]
    monkeypatch.setattr(boxing, "CANDIDATES", 1)
    same(model.predict(photo(), **few)[0], expected)


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "keypoint_rcnn"])
@pytest.mark.parametrize("block", ["CPU_BLOCK", "GPU_BLOCK"])
def test_suppression_that_does_not_settle_is_done_again_alone(
    small_model: Callable[[str], FasterRCNN], monkeypatch: pytest.MonkeyPatch, kind: str, block: str
) -> None:
    """Of a CPU's blocks and of a GPU's, in predictions, raw outputs and training alike."""
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    model, images = small_model(kind), [photo(), SQUARE[0]]
    pixels = mx.random.normal((1, 96, 128, 3), key=mx.random.key(0))
    boxes = np.array([[20, 20, 80, 80]], np.float32)
    target = {"boxes": boxes, "labels": np.array([1]), "masks": np.ones((1, 90, 90), np.uint8)}
    target["keypoints"] = np.full((1, 5, 3), 40.0, np.float32)
    wanted = "masks" if kind == "mask_rcnn" else "keypoints"
    target = {k: v for k, v in target.items() if k in ("boxes", "labels", wanted)}
    key = mx.random.key(3)

    def everything() -> tuple[Any, Any, Any]:
        losses = model.get_loss([SQUARE[0]], [target], key=key)
        return model.predict(images), model(pixels), {k: v.item() for k, v in losses.items()}

    found, raw, losses = everything()
    pooled, attempts = [], []
    select, align = proposing.select_proposals, boxing.multiscale_roi_align
    monkeypatch.setattr(nms, "CPU_BLOCK", getattr(nms, block))
    monkeypatch.setattr(nms, "CPU_ROUNDS", 1)

    def counted(*args: Any, **options: Any) -> Any:
        attempts.append(1)
        return select(*args, **options)

    def align_counted(maps, rois, size, *args):
        if size == model.config.pool_size:
            pooled.append(1)
        return align(maps, rois, size, *args)

    monkeypatch.setattr(proposing, "select_proposals", counted)
    monkeypatch.setattr(boxing, "multiscale_roi_align", align_counted)
    again, raw_again, losses_again = everything()
    for a, b in zip(again, found, strict=True):
        same(a, b)
    assert all(mx.allclose(a, b, atol=1e-5).item() for a, b in zip(raw_again, raw, strict=True))
    assert losses_again == pytest.approx(losses, rel=1e-5)
    assert len(attempts) > 3 and len(pooled) == 3  # once a path


def test_attempts_grow_until_they_settle(
    fresh_model: Callable[..., FasterRCNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rounds a chain of boxes needs, and however few anchors are kept of a level."""
    model, rounds = fresh_model("faster_rcnn", rpn_pre_nms_top_n_test=5), []
    select = boxing.select_detections

    def unsettled(*args: Any, **options: Any) -> Any:
        rounds.append(args[-1])
        assert len(rounds) < 9, "does not end"
        found = select(*args, **options)
        return found._replace(exact=mx.array(args[-1] >= 1000))

    monkeypatch.setattr(boxing, "select_detections", unsettled)
    model.predict(photo())
    assert rounds == sorted(set(rounds)) and rounds[-1] >= 1000


def test_training_mode_neither_matters_nor_changes(
    fresh_model: Callable[..., FasterRCNN],
) -> None:
    net = ResNetFPNConfig(depth=18, width=16, num_classes=0, out_channels=8)
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
    view = inference(model.train())
    assert not any(module.training for module in view.modules())
    assert all(module.training for module in model.modules())


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


def test_floats_outside_0_to_1_are_refused(model: FasterRCNN) -> None:
    with pytest.raises(ValueError, match=r"floats from 0 to 25\d: expected floats in \[0, 1\]"):
        model.predict(photo().astype(np.float32))
    with pytest.raises(ValueError, match="undo the normalisation"):
        model.predict(mx.random.normal((2, 32, 48, 3)))


def test_batch_rows() -> None:
    rows = batch_rows(mx.arange(16).reshape(2, 2, 4).astype(mx.float32))
    assert rows[:, 0].tolist() == [0, 0, 1, 1]
    assert rows[3].tolist() == [1, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("backbone.fpn", np.nan),
        ("backbone.fpn", np.inf),
        ("rpn.head", np.nan),
        ("roi_heads.box_predictor", np.nan),
        ("roi_heads.box_predictor", np.inf),
    ],
)
def test_weights_that_are_not_finite_are_named(
    fresh_model: Callable[..., FasterRCNN], part: str, value: float
) -> None:
    """They would find nothing, without a word."""
    model = fresh_model("faster_rcnn")
    names = [k for k, _ in tree_flatten(model.parameters()) if k.startswith(part)]
    (name,) = [
        n
        for n in names
        if n.endswith(("inner_blocks.0.0.bias", "cls_logits.bias", "cls_score.bias"))
    ]
    weights = dict(tree_flatten(model.parameters()))
    weights[name] = mx.full(weights[name].shape, value)
    model.load_weights(list(weights.items()))
    with pytest.raises(ValueError, match=f"not finite: '{name}';"):
        model.predict(photo())


def test_overflow_of_a_narrow_type_is_said(fresh_model: Callable[..., FasterRCNN]) -> None:
    model = fresh_model("faster_rcnn")
    cast_weights(model, "float16")
    model.dtype = "float16"
    model.backbone.fpn.layer_blocks[0][0].weight *= 3e4
    with pytest.raises(ValueError, match="outputs are not finite though its weights are"):
        model.predict(photo())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_in_float32_on_a_cpu(
    dtype: str,
    folder: Path,
    fresh_model: Callable[..., FasterRCNN],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is faster there; on a GPU the stored type runs, and what was asked for runs anywhere."""
    cast_weights(model := fresh_model("faster_rcnn"), dtype)
    mlx_rcnn.save(model, folder / "m")
    stored, wide = mlx_rcnn.load(folder / "m"), mlx_rcnn.load(folder / "m", dtype="float32")
    narrow = mlx_rcnn.load(folder / "m", dtype=dtype)

    def runs_in(model: FasterRCNN) -> mx.Dtype:
        return model.to_predict().backbone.net.conv1.weight.dtype

    kind = getattr(mx, dtype)
    assert stored.backbone.net.conv1.weight.dtype == kind
    assert (runs_in(stored), runs_in(narrow), runs_in(wide)) == (mx.float32, kind, mx.float32)
    same(stored.predict(photo())[0], wide.predict(photo())[0])
    mlx_rcnn.save(stored, folder / "again")  # running in float32 changes nothing of it
    before, after = (mx.load(str(folder / n / "model.safetensors")) for n in ("m", "again"))
    assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
    assert all(mx.array_equal(before[k], v) for k, v in after.items())
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert runs_in(stored) == kind
