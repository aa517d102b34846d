"""Selective Search: boxes in pixels of the image given; with OpenCV's contrib modules, or not."""

import builtins
import types

import numpy as np
import pytest

from mlx_rcnn.data import selective_search

GREY = np.full((40, 60, 3), 128, np.uint8)


def picture(height=120, width=200):
    """Three rectangles of one colour each; the boxes of them."""
    image = np.full((height, width, 3), (90, 110, 70), np.uint8)
    boxes = [(0.1, 0.2, 0.3, 0.8), (0.4, 0.1, 0.7, 0.5), (0.75, 0.5, 0.95, 0.9)]
    rows = [
        (round(a * width), round(b * height), round(c * width), round(d * height))
        for a, b, c, d in boxes
    ]
    for (x1, y1, x2, y2), colour in zip(
        rows, ((230, 30, 30), (30, 30, 230), (240, 230, 20)), strict=True
    ):
        image[y1:y2, x1:x2] = colour
    return image, np.array(rows, np.float64)


def best_ious(boxes, found):
    shared = np.minimum(boxes[:, None, 2:], found[None, :, 2:]) - np.maximum(
        boxes[:, None, :2], found[None, :, :2]
    )
    area = np.maximum(shared, 0).prod(axis=-1)
    own = [(rows[:, 2:] - rows[:, :2]).prod(axis=1) for rows in (boxes, found)]
    return (area / (own[0][:, None] + own[1][None] - area)).max(axis=1)


@pytest.mark.parametrize("mode", ["fast", "quality"])
@pytest.mark.parametrize("width", [100, 200, 300])
def test_it_finds_what_stands_out(mode, width):
    pytest.importorskip("cv2.ximgproc")
    image, boxes = picture()
    before = image.copy()
    found = selective_search(image, mode, width=width)
    np.testing.assert_array_equal(image, before)
    assert found.dtype == np.float32 and found.ndim == 2 and len(found) >= 4
    assert best_ious(boxes, found).min() > 0.85  # one pixel of 100 is two of the image
    assert (found >= 0).all() and (found <= [200, 120, 200, 120]).all()
    assert len(np.unique(found, axis=0)) == len(found)
    # A side of 20 px at that width.
    assert (found[:, 2:] - found[:, :2]).min() >= 20 * 200 / width - 1e-3


def test_the_same_image_gives_the_same_boxes():
    pytest.importorskip("cv2.ximgproc")
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (9, 12, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    first, second = (selective_search(image, width=144) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(first) > 20
    np.testing.assert_array_equal(selective_search(image, limit=7, width=144), first[:7])


def test_colours_are_read_as_rgb():
    """OpenCV's BGR matters: red and blue turned round give other regions."""
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("cv2.ximgproc")
    seen = []
    real = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation

    class Watched:
        def __init__(self):
            self.inner = real()

        def setBaseImage(self, image):  # noqa: N802
            seen.append(image.copy())
            self.inner.setBaseImage(image)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    image = np.zeros((30, 40, 3), np.uint8)
    image[..., 0] = 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2.ximgproc.segmentation, "createSelectiveSearchSegmentation", Watched)
        selective_search(image, width=40)
    assert seen[0].shape == (30, 40, 3) and seen[0][0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2), (20, 20)])
def test_odd_images(shape):
    pytest.importorskip("cv2.ximgproc")
    found = selective_search(np.zeros((*shape, 3), np.uint8), width=60)
    assert found.dtype == np.float32 and found.shape[1] == 4
    assert (found <= [shape[1], shape[0]] * 2).all() and (found[:, 2:] > found[:, :2]).all()


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (GREY[..., 0], {}, r"got shape \(40, 60\) of uint8"),
        (GREY / 255, {}, r"of float64, expected \(H, W, 3\) of uint8, RGB"),
        (GREY[:0], {}, r"got shape \(0, 60, 3\)"),
        (GREY, {"mode": "slow"}, "mode='slow': expected one of fast, quality"),
        (GREY, {"limit": 0}, "limit=0"),
        (GREY, {"width": 19}, "width=19"),
    ],
)
def test_what_cannot_be_searched(image, options, message):
    with pytest.raises(ValueError, match=message):
        selective_search(image, **options)


@pytest.mark.parametrize("plain", [False, True])
def test_without_opencv_the_message_says_what_to_install(monkeypatch, plain):
    """Not installed, or a plain OpenCV, which has no Selective Search."""
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "cv2":
            if plain:
                return types.ModuleType("cv2")
            raise ImportError("No module named 'cv2'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'pip install "mlx-rcnn\[proposals\]"'):
        selective_search(GREY)
