"""Test-time augmentation against detectron2's rule, written again here a view at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlx_rcnn
from mlx_rcnn import CascadeRCNN
from mlx_rcnn.heads.detections import detection_rule
from mlx_rcnn.models import predict_augmented
from mlx_rcnn.models.augmented import check_augment
from reference import slow_nms
from small import BACKBONE, OPTIONS, check, photo, same
from suppression import slow_soft_nms
from told import IMAGE, TOLD, Told, mirrored, white_on_the_left

Models = Callable[..., Any]
Found = dict[str, np.ndarray]
Augment = mlx_rcnn.TestTimeAugment
SIZES = (80, 96, 128)


def merged(found: list[Found], config: Any, top_k: int = 100) -> Found:
    """GeneralizedRCNNWithTTA._merge_detections: suppression of each class over the union."""
    boxes, scores, labels = (
        np.concatenate([f[k] for f in found]) for k in ("boxes", "scores", "labels")
    )
    if config.box_nms_kind == "hard":
        picks = [(i, scores[i]) for i in slow_nms(boxes, scores, config.box_nms_thresh, labels)]
    else:
        least = np.full(len(scores), config.box_score_thresh)
        options = (config.box_nms_kind, config.box_nms_thresh, config.box_nms_sigma, labels, least)
        picks = slow_soft_nms(boxes, scores, *options)
    rows = [row for row, _ in picks[:top_k]]
    lowered = np.array([score for _, score in picks[:top_k]], np.float32)
    return {"boxes": boxes[rows], "scores": lowered, "labels": labels[rows]}


def slow_augmented(
    build: Callable[..., Any], image: np.ndarray, sizes: tuple[int, ...], flip: bool, top_k: int
) -> Found:
    """Each view by a model of that size, mirrored before it is resized."""
    found = []
    for side in sizes:
        model = build(min_size=side, max_size=4000)
        found += model.predict(image)
        if flip:
            [other] = model.predict(np.ascontiguousarray(image[:, ::-1]))
            found.append({**other, "boxes": mirrored(other["boxes"], image.shape[1])})
    return merged(found, model.config, top_k)


def assert_like(found: Found, expected: Found) -> None:
    """Equal up to rounding; where scores nearly tie they may change places."""
    assert len(found["scores"]) == len(expected["scores"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
    gaps = np.abs(np.diff(expected["scores"], prepend=2, append=-1)) > 2e-4
    apart = gaps[1:] & gaps[:-1]
    assert apart.mean() > 0.6
    np.testing.assert_array_equal(found["labels"][apart], expected["labels"][apart])
    np.testing.assert_allclose(found["boxes"][apart], expected["boxes"][apart], atol=0.1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("options", [{}, {"box_nms_kind": "linear"}], ids=str)
def test_oracle(fresh_model: Models, flip: bool, options: dict[str, Any]) -> None:
    def build(**more: Any) -> Any:
        return fresh_model("faster_rcnn", **options, **more)

    model, image = build(), photo("dogs.jpg")
    [found] = model.predict(image, augment=Augment(SIZES, flip))
    check(found, *image.shape[:2], classes=5)
    assert_like(found, slow_augmented(build, image, SIZES, flip, 100))
    [few] = model.predict(image, augment=Augment(SIZES, flip), top_k=9)
    # Each view gives its nine best, and nine of these are left.
    assert len(few["scores"]) == 9
    same(predict_augmented(model, image, sizes=SIZES, flip=flip, top_k=9)[0], few)


KINDS = ["faster_rcnn", "mask_rcnn", "keypoint_rcnn"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [None, 96, (96,)])
def test_one_view_of_the_models_own_size_is_plain(
    small_model: Models, kind: str, sizes: Any
) -> None:
    model, images = small_model(kind), [photo(), photo("stop.jpg")]
    augment = Augment(sizes, flip=False, max_size=160)
    for found, plain in zip(
        model.predict(images, augment=augment), model.predict(images), strict=True
    ):
        same(found, plain)


def test_one_view_is_not_lowered_twice(fresh_model: Models) -> None:
    model = fresh_model("faster_rcnn", box_nms_kind="gaussian")
    augment = Augment((96,), flip=False, max_size=160)
    same(model.predict(photo(), augment=augment)[0], model.predict(photo())[0])


def test_views_of_equal_size_find_nothing_new(small_model: Models) -> None:
    """Twice the same boxes: one of each goes."""
    model = small_model("faster_rcnn")
    augment = Augment((96, 96), flip=False, max_size=160)
    same(model.predict(photo(), augment=augment)[0], model.predict(photo())[0])


def test_a_mirrored_image_gives_mirrored_boxes(small_model: Models) -> None:
    """With both views of each, an image and its mirror image are the same but for ties."""
    model, image = small_model("faster_rcnn"), photo("dogs.jpg")
    [found] = model.predict(image, augment=Augment(None))
    [other] = model.predict(np.ascontiguousarray(image[:, ::-1]), augment=Augment(None))
    assert_like({**other, "boxes": mirrored(other["boxes"], image.shape[1])}, found)


def test_merge_by_hand() -> None:
    model = Told(TOLD)
    [found] = predict_augmented(model, IMAGE, sizes=(50, 100))
    assert model.seen == [(50, False), (50, True), (100, False), (100, True)]
    # 36 / 44 of the first boxes are shared; the mirrored ones go back to 120..160 and 180..200.
    expected = [
        [24, 20, 64, 60, 0.95, 1],
        [20, 20, 60, 60, 0.6, 3],
        [120, 20, 160, 60, 0.5, 2],
        [180, 0, 200, 20, 0.3, 1],
    ]
    rows = np.concatenate(
        [found["boxes"], found["scores"][:, None], found["labels"][:, None]], axis=1
    )
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert found["labels"].dtype == np.int32 and list(found) == ["boxes", "scores", "labels"]
    [best] = predict_augmented(model, IMAGE, sizes=(50, 100), top_k=2)
    np.testing.assert_allclose(best["scores"], [0.95, 0.6])
    # At an IoU of 0.9 none goes
    [all_] = predict_augmented(model, IMAGE, sizes=(50, 100), nms_thresh=0.9)
    np.testing.assert_allclose(all_["scores"], [0.95, 0.9, 0.6, 0.5, 0.3])
    [plain] = predict_augmented(model, IMAGE, sizes=(50, 100), flip=False)
    np.testing.assert_allclose(plain["scores"], [0.95, 0.6, 0.5])


def test_merge_by_soft_nms() -> None:
    model = Told(TOLD, box_nms_kind="linear")
    [found] = predict_augmented(model, IMAGE, sizes=(50, 100))
    # The second of the first boxes keeps 1 - 36 / 44 of its 0.9; the other pair is the same box.
    np.testing.assert_allclose(found["scores"], [0.95, 0.6, 0.5, 0.3, 0.9 * 8 / 44], rtol=1e-5)
    [found] = predict_augmented(model, IMAGE, sizes=(50, 100), score_thresh=[0.2, 0.1, 0.7])
    np.testing.assert_allclose(found["scores"], [0.95, 0.5, 0.3], rtol=1e-5)
    every = Told(TOLD, box_nms_agnostic=True)  # 1 and 3 share 36 / 44 too
    [found] = predict_augmented(every, IMAGE, sizes=(50, 100))
    np.testing.assert_allclose(found["scores"], [0.95, 0.5, 0.3], rtol=1e-5)


def test_unequal_images_each_in_their_own_pixels() -> None:
    """The second, 50 x 50 in a batch padded to the first, is mirrored within its own width."""
    told = {(50, False): [[10, 0, 20, 20, 0.9, 1]], (50, True): [[5, 0, 10, 5, 0.8, 2]]}
    wide, square = predict_augmented(Told(told), [IMAGE, white_on_the_left(25, 25)], sizes=(50,))
    np.testing.assert_allclose(wide["boxes"], [[20, 0, 40, 40], [180, 0, 190, 10]], atol=1e-4)
    np.testing.assert_allclose(square["boxes"], [[5, 0, 10, 10], [20, 0, 22.5, 2.5]], atol=1e-4)


def test_nothing_found_in_any_view() -> None:
    none: dict[tuple[int, bool], list[list[float]]] = {(50, False): [], (50, True): []}
    [found] = predict_augmented(Told(none), IMAGE, sizes=(50,))
    assert {k: v.shape for k, v in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }


def test_a_cascade() -> None:
    model = CascadeRCNN(BACKBONE, 32, 5, **OPTIONS, box_score_thresh=0.0)
    [found] = model.predict(photo(), augment=Augment((80, 96)))
    check(found, 220, 330, classes=5)
    assert len(found["scores"]) > 0


def test_clipped_results(fresh_model: Models) -> None:
    """detectron2's models clip to the image given, and leave out what has no side left."""
    model = fresh_model("faster_rcnn", clip_results=True)
    [found] = model.predict(photo(), augment=Augment(SIZES))
    check(found, 220, 330, classes=5)
    assert (found["boxes"][:, 2] <= 330).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": ()}, ValueError, r"sizes=\(\): expected sizes, got an empty sequence"),
        ({"sizes": (400, 0)}, ValueError, "expected positive numbers, got 0"),
        ({"sizes": (400.5,)}, TypeError, "sizes="),
        ({"sizes": "400"}, TypeError, "sizes='400'"),
        ({"sizes": (400, 5000)}, ValueError, r"sizes=\(400, 5000\): expected at most max_size=40"),
        ({"flip": 1}, ValueError, "flip=1: expected one of"),
        ({"max_size": 0}, ValueError, "max_size=0"),
    ],
)
def test_wrong_views(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Augment(**options)


def test_wrong_arguments_before_any_work(small_model: Models) -> None:
    model, gone = small_model("mask_rcnn"), "no such file.jpg"
    with pytest.raises(TypeError, match="augment=True: expected a TestTimeAugment"):
        model.predict(gone, augment=True)
    with pytest.raises(ValueError, match="score_thresh has 1 entries"):
        model.predict(gone, augment=Augment(), score_thresh=[0.5])
    with pytest.raises(ValueError, match="masks='both'"):
        predict_augmented(model, gone, masks="both")
    with pytest.raises(ValueError, match="top_k=0"):
        predict_augmented(model, gone, top_k=0)
    assert [view.side for view in Augment().views][::2] == list(range(400, 1201, 100))
    assert detection_rule(model.config).top_k == 100


def test_models_without_views() -> None:
    proposals = mlx_rcnn.ProposalNetwork(BACKBONE, 32, use_fpn=True)
    fast = mlx_rcnn.FastRCNN(BACKBONE, 32, 5, use_fpn=True, hidden_dim=8)
    for model in (proposals, fast):
        name = type(model).__name__
        with pytest.raises(ValueError, match=f"a {name} has no test-time augmentation"):
            check_augment(model, Augment())
