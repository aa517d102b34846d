"""From images to network input and back: sizes, normalisation, padding, and the exact inverse."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_rcnn import FasterRCNNConfig
from mlx_rcnn.inputs.transform import boxes_to_original, load_images, preprocess, resized_size
from mlx_rcnn.ops import resize_opencv, resize_pillow, resize_torch
from recipe import GOLDENS
from small import PHOTOS, photo

sides = st.integers(1, 5000)


def config(**options) -> FasterRCNNConfig:
    return FasterRCNNConfig(backbone=None, feat_channels=8, num_classes=3, **options)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # scale 800/480: 640 * 5/3 = 1066.67, cut off
        ((640, 480), (1066, 800)),
        ((600, 1000), (799, 1333)),  # 1333/1000 < 800/600: 600 * 1.333 = 799.8
        ((1, 1), (800, 800)),
        ((4000, 30), (1333, 9)),  # 30 * 1333/4000 = 9.9975
        ((30, 4000), (9, 1333)),
        ((1, 4000), (1, 1333)),  # 0.33: at least one pixel
        ((800, 1333), (800, 1333)),
    ],
)
def test_sizes_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, config()) == expected


@pytest.mark.parametrize("rule", ["pillow", "opencv"])
def test_other_libraries_round_half_up(rule: str) -> None:
    rules = config(resize_rule=rule)
    assert resized_size(480, 640, rules) == (800, 1067)
    assert resized_size(600, 1000, rules) == (800, 1333)
    assert resized_size(4000, 30, rules) == (1333, 10)
    # 101 * 2 / 4 = 50.5 rounds up to 51
    assert resized_size(4, 101, config(resize_rule=rule, min_size=2)) == (2, 51)


def test_sizes_equal_torchs() -> None:
    for h, w, height, width in np.load(GOLDENS / "torchvision_odd.npz")["resized_sizes"].tolist():
        assert resized_size(h, w, config()) == (height, width)


@given(sides, sides, st.sampled_from(["torch", "pillow", "opencv"]))
def test_sizes_keep_their_bounds(height: int, width: int, rule: str) -> None:
    size = resized_size(height, width, config(resize_rule=rule, min_size=320, max_size=512))
    assert 1 <= min(size) <= 320 and max(size) <= 512
    # One of the two bounds is reached, up to a pixel cut off.
    assert min(size) >= 319 or max(size) >= 511
    turned = resized_size(width, height, config(resize_rule=rule, min_size=320, max_size=512))
    assert turned == size[::-1]


def test_prediction_takes_the_last_of_several_sizes() -> None:
    assert resized_size(100, 100, config(min_size=(640, 672, 320))) == (320, 320)


def test_pixels_by_hand() -> None:
    """A grey of 51 = 0.2: (0.2 - mean) / std, and zeros beyond the image."""
    options = {"image_mean": (0.1, 0.2, 0.4), "image_std": (0.5, 0.25, 0.1), "size_divisible": 4}
    image = np.full((2, 3, 3), 51, np.uint8)
    batch = preprocess([image], config(min_size=2, max_size=8, **options))
    assert batch.pixels.shape == (1, 4, 4, 3) and batch.pixels.dtype == mx.float32
    pixels = np.array(batch.pixels[0])
    np.testing.assert_allclose(pixels[:2, :3], np.full((2, 3, 3), [0.2, 0.0, -2.0]), atol=1e-6)
    assert not pixels[2:].any() and not pixels[:, 3:].any()
    assert batch.sizes.tolist() == [[2, 3]] and batch.original_sizes.tolist() == [[2, 3]]
    swapped = preprocess([image], config(min_size=2, max_size=8, channel_order="bgr", **options))
    np.testing.assert_array_equal(np.array(swapped.pixels[0]), pixels[..., ::-1])


@pytest.mark.parametrize(
    ("rule", "resize"),
    [("torch", resize_torch), ("pillow", resize_pillow), ("opencv", resize_opencv)],
)
def test_rules_resize_then_normalise(rule: str, resize) -> None:
    rules = config(resize_rule=rule, min_size=96, max_size=160)
    batch = preprocess([photo()], rules)
    height, width = resized_size(220, 330, rules)
    resized = np.asarray(resize(photo(), (height, width)), np.float64)
    expected = (resized / 255 - rules.image_mean) / rules.image_std
    got = np.array(batch.pixels[0, :height, :width])
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("rule", ["torch", "pillow", "opencv"])
def test_bytes_and_floats_of_equal_pixels(rule: str) -> None:
    rules = config(resize_rule=rule, min_size=96, max_size=160)
    grey = preprocess([photo()], rules).pixels
    floats = preprocess([photo().astype(np.float32) / 255], rules).pixels
    assert mx.abs(grey - floats).max().item() < 3e-6


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3))
def test_batches_are_padded_singles(shapes: list[tuple[int, int]]) -> None:
    rules = config(min_size=16, max_size=24, size_divisible=8)
    random = np.random.default_rng(len(shapes))
    images = [random.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    batch = preprocess(images, rules)
    assert all(side % 8 == 0 for side in batch.pixels.shape[1:3])
    assert batch.pixels.shape[1] - batch.sizes[:, 0].max() < 8
    assert batch.original_sizes.tolist() == [list(shape) for shape in shapes]
    for pixels, image, (h, w) in zip(np.array(batch.pixels), images, batch.sizes, strict=True):
        alone = np.array(preprocess([image], rules).pixels[0])
        np.testing.assert_array_equal(pixels[:h, :w], alone[:h, :w])
        assert not pixels[h:].any() and not pixels[:, w:].any()


def test_boxes_go_back() -> None:
    # 100x200 became 50x80: y is doubled, x is times 2.5.
    boxes = boxes_to_original(np.array([[0, 0, 80, 50], [8, 5, 10, 7]]), (50, 80), (100, 200))
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[0, 0, 200, 100], [20, 10, 25, 14]]
    assert boxes_to_original(np.zeros((0, 4), np.float32), (5, 5), (9, 9)).shape == (0, 4)


def test_load_images_takes_one_several_and_batches() -> None:
    path = PHOTOS / "deck.jpg"
    forms = (path, str(path), Image.open(path), photo(), mx.array(photo()))
    for form in (*forms, *([form] for form in forms), tuple(forms[:1])):
        images = load_images(form)
        assert len(images) == 1
        np.testing.assert_array_equal(images[0], photo())
    assert len(load_images(list(forms))) == len(forms)
    for batch in (np.zeros((2, 5, 6, 3), np.float32), mx.zeros((2, 5, 6, 3))):
        images = load_images(batch)
        assert [(i.shape, i.dtype) for i in images] == [((5, 6, 3), np.float32)] * 2


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "images is empty: expected at least one image"),
        ((), ValueError, "images is empty"),
        (np.zeros((0, 5, 5, 3)), ValueError, r"shape \(0, 5, 5, 3\): expected at least one image"),
        (np.zeros((1, 3, 5, 5)), ValueError, "channels first"),
        (np.zeros((5, 5)), ValueError, r"expected \(H, W, 3\)"),
        ([photo(), np.full((5, 5, 3), np.nan)], ValueError, "NaN"),
        (None, TypeError, "expected a path, a PIL image or an"),
        ([None], TypeError, "got NoneType"),
        (iter([photo()]), TypeError, "expected a path"),
        ({"image": 1}, TypeError, "got dict"),
        (Path("missing.jpg"), FileNotFoundError, "missing.jpg"),
    ],
)
def test_what_is_no_image(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_images(images)
