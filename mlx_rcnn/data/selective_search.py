"""Selective Search (Uijlings et al., 2013), the proposals of R-CNN (Girshick et al., 2014).

OpenCV's contrib modules compute it; they are the extra ``proposals``, and imported where used.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

MODES = ("fast", "quality")
WIDTH, LIMIT = 500, 2000  # R-CNN's
_MIN_SIDE = 20  # pixels of the resized image, as in R-CNN's selective_search_boxes.m
_TALLEST = 4  # times the width: a strip of a few pixels would become an image of millions


def selective_search(
    image: np.ndarray, mode: str = "fast", limit: int = LIMIT, width: int = WIDTH
) -> np.ndarray:
    """Boxes where objects may be, by grouping regions that are alike.

    As R-CNN did, the image is first resized to a width of 500 px, and boxes with a side of less
    than 20 px there are left out. The same image gives the same boxes in the same order.

    Args:
        image (H, W, 3): uint8, RGB.
        mode: ``"fast"``, R-CNN's choice (two colour spaces), or ``"quality"`` (five, four ways of
            grouping): several times as many boxes and as much time. Default: ``"fast"``.
        limit: the most boxes. Default: ``2000``.
        width: what the image is resized to, in pixels; the height follows, up to four times this.
            Default: ``500``.

    Returns:
        (P, 4) float32, xyxy in pixels of the image given, inside it, none twice. The order is
        random, as OpenCV's is in effect; the first of them are a fair sample of all.

    Raises:
        ImportError: OpenCV's contrib modules are not installed; the message says how to.
        ValueError: an image of another shape or dtype, another mode, or a number out of range.
    """
    check_settings(mode, limit, width)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image: got shape {image.shape} of {image.dtype}, expected (H, W, 3) of uint8, RGB"
        )
    cv2 = load_opencv()
    height, given = image.shape[:2]
    scale = min(width / given, _TALLEST * width / height)
    size = (max(round(given * scale), 1), max(round(height * scale), 1))
    shrinks = scale < 1
    small = cv2.resize(
        np.ascontiguousarray(image[..., ::-1]),  # OpenCV's colours are BGR
        size,
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(small)
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    boxes = _in_order(np.asarray(search.process(), np.int64).reshape(-1, 4))[:limit]
    ratio = np.array([given / size[0], height / size[1]] * 2)
    edge = np.array([given, height] * 2, np.float32)
    return np.asarray(np.minimum((boxes * ratio).astype(np.float32), edge))


def check_settings(mode: str, limit: int, width: int) -> None:
    """Refuse, by a ValueError, what :func:`selective_search` cannot do."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if limit < 1 or width < _MIN_SIDE:
        raise ValueError(
            f"limit={limit}, width={width}: expected at least 1 box and {_MIN_SIDE} pixels"
        )


def load_opencv() -> ModuleType:
    """OpenCV with Selective Search; an ImportError without its contrib modules says how to."""
    try:
        import cv2

        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "Selective Search needs OpenCV's contrib modules (and no other OpenCV beside them): "
            'pip install "mlx-rcnn[proposals]"'
        ) from error
    opencv: ModuleType = cv2
    return opencv


def _in_order(found: np.ndarray) -> np.ndarray:
    """Boxes (x, y, width, height) as xyxy, without the small ones, in an order of our own."""
    # OpenCV finds the same boxes each time, but ranks them by C's rand(), which cv2.setRNGSeed does
    # not reach. A shuffle of ours covers as many objects with the first 100 or 300.
    large = found[(found[:, 2:] >= _MIN_SIDE).all(axis=1)]
    boxes = np.unique(np.concatenate([large[:, :2], large[:, :2] + large[:, 2:]], 1), axis=0)
    return np.asarray(boxes[np.random.default_rng(0).permutation(len(boxes))])
