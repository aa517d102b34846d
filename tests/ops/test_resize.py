import math
import tracemalloc
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_rcnn.ops.resize import resize_opencv, resize_pillow, resize_torch

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "resize.npz")
RULES = {"torch": resize_torch, "pillow": resize_pillow, "opencv": resize_opencv}
GOLDEN_SIZES = sorted({name.rsplit("_", 1)[0] for name in GOLDEN.files if "x" in name})

sides = st.integers(1, 24)


def random_image(seed, height, width, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def slow_bilinear(image, size):
    """Half-pixel centres, clamped to the image, in float64."""
    out = np.empty((*size, image.shape[2]))
    for i in range(size[0]):
        y = min(max((i + 0.5) * image.shape[0] / size[0] - 0.5, 0), image.shape[0] - 1)
        for j in range(size[1]):
            x = min(max((j + 0.5) * image.shape[1] / size[1] - 0.5, 0), image.shape[1] - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            v, w = y - top, x - left
            upper = image[top, left] * (1 - w) + image[top, right] * w
            lower = image[bottom, left] * (1 - w) + image[bottom, right] * w
            out[i, j] = upper * (1 - v) + lower * v
    return out


def slow_opencv(image, size):
    """INTER_LINEAR a pixel at a time: weights in 1/2048, 4 bits lost, then 16, then 2."""

    def sample(index, length, count, fold):
        position = np.float32((index + 0.5) * (1 / (count / length)) - 0.5)
        first = math.floor(position)
        fraction = position - np.float32(first)
        if fold and (first < 0 or first >= length - 1):
            fraction = np.float32(0)
            first = min(max(first, 0), length - 1)
        weights = [round(float((np.float32(1) - fraction) * 2048)), round(float(fraction * 2048))]
        return [min(max(first + k, 0), length - 1) for k in (0, 1)], weights

    out = np.empty((*size, image.shape[2]), np.uint8)
    for i in range(size[0]):
        (top, bottom), (v0, v1) = sample(i, image.shape[0], size[0], fold=False)
        for j in range(size[1]):
            (left, right), (w0, w1) = sample(j, image.shape[1], size[1], fold=True)
            for c in range(image.shape[2]):
                upper = int(image[top, left, c]) * w0 + int(image[top, right, c]) * w1
                lower = int(image[bottom, left, c]) * w0 + int(image[bottom, right, c]) * w1
                total = ((upper >> 4) * v0 >> 16) + ((lower >> 4) * v1 >> 16)
                out[i, j, c] = (total + 2) >> 2
    return out


@pytest.mark.parametrize("name", GOLDEN_SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_golden_bit_for_bit(rule, name):
    number, size = name.split("_")
    image = GOLDEN[f"{number}_image"]
    expected = GOLDEN[f"{name}_{rule}"]
    result = RULES[rule](image, tuple(int(side) for side in size.split("x")))
    assert result.dtype == expected.dtype
    if rule == "pillow" and int(PIL.__version__.split(".")[0]) < 13:
        # The golden is of Pillow 13; the rule is Pillow's own, which rounded otherwise before.
        np.testing.assert_allclose(result.astype(int), expected.astype(int), rtol=0, atol=1)
        return
    np.testing.assert_array_equal(result, expected)
    if rule == "torch":
        np.testing.assert_array_equal(
            resize_torch(image.astype(np.float32), expected.shape[:2]), result
        )


def test_torch_by_hand():
    row = np.array([[[0.0], [1.0]]], np.float32)
    # 2 -> 4: centres at (i + 0.5) / 2 - 0.5 = -0.25 (clamped to 0), 0.25, 0.75, 1.25 (one pixel: 1)
    np.testing.assert_array_equal(resize_torch(row, (1, 4)).ravel(), [0, 0.25, 0.75, 1])
    # 6 -> 2: centres at 1 and 4 exactly; without antialiasing the others do not count
    row = np.array([[[9], [10], [90], [90], [40], [5]]], np.uint8)
    np.testing.assert_array_equal(resize_torch(row, (1, 2)).ravel(), [10, 40])
    # 4 -> 2 in both axes: centres at 0.5 and 2.5, the mean of each 2x2 block
    block = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    np.testing.assert_array_equal(resize_torch(block, (2, 2))[..., 0], [[2.5, 4.5], [10.5, 12.5]])


def test_pillow_by_hand():
    # 4 -> 1: a triangle of radius 4 around 2, at pixel centres 0.5 .. 3.5, weights
    # 1 - 1.5 / 4 = 0.625, 0.875, 0.875, 0.625, of sum 3: 255 * 0.625 / 3 = 53.125
    row = np.array([[[0], [0], [0], [255]]], np.uint8)
    assert resize_pillow(row, (1, 1)).ravel().tolist() == [53]


def test_opencv_by_hand():
    # Exactly half: the mean of each 2x2 block, rounded half up: (0 + 1 + 2 + 3) / 4 = 1.5 -> 2
    block = np.array([[0, 1, 4, 4], [2, 3, 4, 5]], np.uint8)[..., None]
    assert resize_opencv(block, (1, 2)).ravel().tolist() == [2, 4]
    # 2 -> 4: 0, 255 * 512 / 2048 = 63.75, 255 * 1536 / 2048 = 191.25, 255. The sums lose no more
    # than a quarter: (130560 >> 4) * 2048 >> 16 = 255, (255 + 2) >> 2 = 64
    row = np.array([[[0], [255]]], np.uint8)
    assert resize_opencv(row, (1, 4)).ravel().tolist() == [0, 64, 191, 255]


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 99))
def test_torch_is_bilinear(height, width, new_height, new_width, seed):
    image = random_image(seed, height, width)
    expected = slow_bilinear(image, (new_height, new_width))
    result = resize_torch(image, (new_height, new_width))
    np.testing.assert_allclose(result, expected, atol=255 * 2e-5)
    assert image.min() - 1e-4 <= result.min() and result.max() <= image.max() + 1e-4


@pytest.mark.parametrize("size", [(100, 29), (3, 126), (1, 128), (128, 1), (70, 70)])
def test_torch_two_passes_are_bilinear(size):
    image = random_image(1, 41, 67, 2)
    np.testing.assert_allclose(resize_torch(image, size), slow_bilinear(image, size), atol=0.005)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from([1, 3, 4]), st.integers(0, 99))
def test_opencv_is_fixed_point(height, width, new_height, new_width, channels, seed):
    image = random_image(seed, height, width, channels)
    size = (new_height, new_width)
    np.testing.assert_array_equal(resize_opencv(image, size), slow_opencv(image, size))


@settings(max_examples=30, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 255), st.sampled_from(sorted(RULES)))
def test_constant_stays_constant(height, width, new_height, new_width, value, rule):
    image = np.full((height, width, 3), value, np.uint8)
    result = RULES[rule](image, (new_height, new_width))
    assert result.shape == (new_height, new_width, 3)
    np.testing.assert_allclose(result, value, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_same_size_is_a_copy(rule):
    image = random_image(2, 9, 7)
    result = RULES[rule](image, (9, 7))
    np.testing.assert_array_equal(result, image)
    result[:] = 0
    assert image.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(11, 40), (60, 90), (7, 5)])
def test_channels_are_independent(rule, channels, size):
    image = random_image(3, 20, 30, channels)
    whole = RULES[rule](image, size)
    for channel in range(channels):
        single = RULES[rule](image[..., channel : channel + 1], size)
        np.testing.assert_array_equal(whole[..., channel : channel + 1], single)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(11, 40), (60, 90)])
def test_views_equal_copies(rule, size):
    image = random_image(4, 20, 30)
    for view in (image[..., ::-1], image[::-1, ::2], image.transpose(1, 0, 2)):
        result = RULES[rule](view, size)
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, RULES[rule](view.copy(), size))
    image.flags.writeable = False
    assert RULES[rule](image, size).flags.writeable


def test_pillow_equals_pillow():
    image = random_image(5, 61, 37)
    for width, height in ((37, 20), (100, 61), (9, 200)):
        expected = np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))
        np.testing.assert_array_equal(resize_pillow(image, (height, width)), expected)


@pytest.mark.parametrize("rule", ["torch", "opencv"])
def test_a_photo_is_not_converted_whole(rule):
    photo = np.zeros((1500, 2000, 3), np.uint8)  # 36 MB as float32
    tracemalloc.start()
    RULES[rule](photo, (150, 200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float64, np.float16])
@pytest.mark.parametrize("rule", RULES)
def test_other_dtypes_are_refused_by_name(rule, dtype):
    with pytest.raises(TypeError, match=f"uint8.* got {np.dtype(dtype)}"):
        RULES[rule](np.zeros((4, 4, 3), dtype), (2, 2))


@pytest.mark.parametrize("rule", ["pillow", "opencv"])
def test_floats_are_for_torch_only(rule):
    with pytest.raises(TypeError, match="got float32"):
        RULES[rule](np.zeros((4, 4, 3), np.float32), (2, 2))


@pytest.mark.parametrize("rule", RULES)
def test_bad_arguments(rule):
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError, match="got list"):
        RULES[rule]([[1]], (2, 2))
    for shape in ((4, 4), (0, 4, 3), (4, 0, 3), (4, 4, 0), (1, 4, 4, 3)):
        with pytest.raises(ValueError, match="expected an image"):
            RULES[rule](np.zeros(shape, np.uint8), (2, 2))
    for size in ((0, 2), (2, -1)):
        with pytest.raises(ValueError, match="at least 1"):
            RULES[rule](image, size)
