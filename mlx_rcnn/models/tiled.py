"""Large images tile by tile: small objects at full size, and each object once.

The slicing of SAHI (Akyon et al., 2022), with another rule for objects on a seam: tiles overlap, so
that what one tile cuts through the next one has whole, and the cut part goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.checks import SWITCH, Number, Whole, check_fields, setting
from ..inputs.pixels import ImageError
from ..inputs.tiff import TiffImage
from ..inputs.transform import load_images
from ..inputs.windows import in_windows, most_pixels, open_windows, overview
from ..ops.masks import paste_masks
from ..outputs.detections import Detections
from .results import named_result

EDGE = 2.0  # pixels: a box that ends so near to a tile's inner border is taken as cut there
COVERED = 0.5  # share of a cut box that a better one must cover for it to go
_ROWS = ("boxes", "scores", "labels")


@dataclass(frozen=True)
class Tiles:
    """How an image is cut.

    Args:
        size (int): side of a tile in pixels of the image; an image that fits one is not cut.
        overlap (float): share of a tile that the next one repeats, below 1. Objects up to that size
            lie whole in some tile. Default: ``0.2``.
        whole (bool): the image as a whole is predicted too, for objects larger than the overlap.
            Default: ``True``.
        batch_size (int): tiles predicted at once. Default: ``1``.
        level (int): of the pyramid in a TIFF that tiles are cut from, 0 for the full resolution;
            ``size`` is in its pixels. Default: ``0``.

    Raises:
        TypeError, ValueError: a field against its rule.
    """

    size: int = setting(1024, Whole(16))
    overlap: float = setting(0.2, Number(0.0, 1.0))
    whole: bool = setting(True, SWITCH)
    batch_size: int = setting(1, Whole())
    level: int = setting(0, Whole(0))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.overlap > 0.9:
            raise ValueError(f"overlap={self.overlap!r}: expected at most 0.9, a share of a tile")

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each tile; all of one size, the last ones moved inwards.

        Args:
            height, width: of the image.
        """
        return [(y, x) for y in self._starts(height) for x in self._starts(width)]

    def _starts(self, length: int) -> list[int]:
        if length <= self.size:
            return [0]
        step = max(round(self.size * (1 - self.overlap)), 1)
        count = -(-(length - self.size) // step) + 1
        # Spread evenly: the overlap is at least what was asked for.
        return [round(i * (length - self.size) / (count - 1)) for i in range(count)]


def predict_tiled(
    model: Any,
    images: Any,
    tiles: Tiles | None = None,
    *,
    score_thresh: float | Sequence[float] | None = None,
    nms_thresh: float | None = None,
    top_k: int | None = None,
    masks: str = "full",
) -> list[Detections]:
    """What ``predict`` gives, from tiles of each image.

    Of a TIFF file only windows are read (extra ``tiff``), and of whatever else has ``shape``
    (H, W, 3), ``dtype`` and ``image[rows, columns]``, as arrays of zarr, h5py or ``numpy.memmap``:
    the image as a whole is never in memory, and where it is predicted as one (``whole``) this is a
    reduced picture of at most 4096 pixels.

    Args:
        model: with ``predict`` and without need of proposals.
        images: as :meth:`FasterRCNN.predict`, or to read windows of, such as a
            :class:`~mlx_rcnn.inputs.tiff.TiffImage` for a page; each goes by itself. The path of a
            TIFF is its first page.
        tiles: how they are cut. Default: ``Tiles()``.
        score_thresh, nms_thresh: as :meth:`FasterRCNN.predict`.
        top_k: most detections of an image, and of each tile. Default: as many as the tiles give.
        masks: as :meth:`MaskRCNN.predict`, nothing to other models. All masks of a large image
            pasted may be more than memory holds: ``"raw"`` keeps them small. They are raw always
            where ``images`` are no files or whole arrays, or are too large for
            :func:`~mlx_rcnn.load_image`.

    Returns:
        As ``predict``, in pixels of the image given, of a TIFF at full resolution.

    Raises:
        ValueError, TypeError, FileNotFoundError: as ``predict``; a model that needs proposals.
    """
    tiles = Tiles() if tiles is None else tiles
    if not isinstance(tiles, Tiles):
        raise TypeError(f"tiles={tiles!r}: expected Tiles(size, overlap)")
    if masks not in ("full", "raw"):
        raise ValueError(f"masks={masks!r}: expected 'full' or 'raw'")
    if getattr(model, "needs_proposals", False):
        raise ValueError(f"a {type(model).__name__} needs proposals: expected a model with its own")
    overlap = getattr(model.config, "box_nms_thresh", 0.5) if nms_thresh is None else nms_thresh
    options: dict[str, Any] = {
        "score_thresh": score_thresh,
        "nms_thresh": nms_thresh,
        "top_k": top_k,
    }
    if getattr(model, "needs_masks", False):
        options["masks"] = "raw"
    results: list[Detections] = []
    for given in _each(images):
        image = open_windows(given, getattr(model.config, "image_levels", None))
        parts = list(_parts(model, image, tiles, options))
        merged = merge_tiles(parts, overlap, top_k)
        paste = masks == "full" and not in_windows(given)
        results.append(_result(model, merged, given, image.shape[:2], paste))
    return results


def _each(images: Any) -> Iterator[Any]:
    """Images one by one, whatever ``predict`` takes; a batch is taken apart."""
    if isinstance(images, list | tuple):
        if not images:
            load_images(images)  # says so
        yield from images
    elif not in_windows(images) and getattr(images, "ndim", None) == 4:
        yield from load_images(images)
    else:
        yield images


def _result(
    model: Any,
    merged: dict[str, np.ndarray],
    given: Any,
    size: tuple[int, int],
    paste: bool,
) -> Detections:
    """With masks pasted, if they are to be and can be, and the model's names."""
    if "masks" in merged and paste and size[0] * size[1] <= most_pixels():
        rule = getattr(model.config, "mask_paste_rule", "torchvision")
        pasted = paste_masks(merged["masks"], merged["boxes"], size, rule=rule)
        merged["masks"] = np.asarray(pasted)
    return named_result(model, merged, given, size)


Part = tuple[dict[str, np.ndarray], np.ndarray]


def _parts(model: Any, image: Any, tiles: Tiles, options: dict[str, Any]) -> Iterator[Part]:
    """What each tile gives, in pixels of the image, and which of it the tile has cut."""
    whole, scale = image, np.ones(2)
    if tiles.level:
        image = _at_level(image, tiles.level)
        scale = image.scale
    height, width = image.shape[:2]
    corners = tiles.corners(height, width)
    tall, wide = min(tiles.size, height), min(tiles.size, width)
    for start in range(0, len(corners), tiles.batch_size):
        batch = corners[start : start + tiles.batch_size]
        pieces = [image[y : y + tall, x : x + wide] for y, x in batch]
        for found, (y, x) in zip(model.predict(pieces, **options), batch, strict=True):
            cut = _cut(found["boxes"], (y, x), (tall, wide), (height, width))
            yield _scaled(_moved(found, x, y), scale), cut
    if tiles.whole and len(corners) > 1:
        if in_windows(whole):
            whole, scale = overview(whole)
        [found] = model.predict([whole], **options)
        yield _scaled(found, scale), np.zeros(len(found["scores"]), bool)


def _at_level(image: Any, level: int) -> Any:
    if isinstance(image, TiffImage):
        return image.at_level(level)
    raise ImageError(f"level={level}: expected 0, the image is no pyramid of a TIFF file")


def _scaled(found: dict[str, np.ndarray], scale: np.ndarray) -> dict[str, np.ndarray]:
    """From pixels of a level to those of the full resolution, ``scale`` of them down and across."""
    if (scale == 1).all():
        return found
    down, across = scale.tolist()
    found["boxes"] = (found["boxes"] * [across, down, across, down]).astype(np.float32)
    if "keypoints" in found:
        found["keypoints"] = (found["keypoints"] * [across, down, 1]).astype(np.float32)
    return found


def _moved(found: dict[str, np.ndarray], x: int, y: int) -> dict[str, np.ndarray]:
    """From pixels of a tile to those of the image."""
    found["boxes"] = found["boxes"] + np.array([x, y, x, y], np.float32)
    if "keypoints" in found:
        found["keypoints"] = found["keypoints"] + np.array([x, y, 0], np.float32)
    return found


def _cut(
    boxes: np.ndarray,
    corner: tuple[int, int],
    tile: tuple[int, int],
    whole: tuple[int, int],
) -> np.ndarray:
    """(D,): boxes (D, 4) in pixels of the tile that end at one of its borders inside the image."""
    (y, x), (tall, wide), (height, width) = corner, tile, whole
    inner = np.array([x > 0, y > 0, x + wide < width, y + tall < height])
    near = np.stack(
        [
            boxes[:, 0] < EDGE,
            boxes[:, 1] < EDGE,
            boxes[:, 2] > wide - EDGE,
            boxes[:, 3] > tall - EDGE,
        ],
        axis=1,
    )
    cut: np.ndarray = (near & inner).any(axis=1)
    return cut


def merge_tiles(
    parts: Sequence[Part], nms_thresh: float, top_k: int | None = None
) -> dict[str, np.ndarray]:
    """One result of several of the same image, each with what was cut (D,); each object once."""
    if len(parts) == 1:  # suppressed already
        return dict(parts[0][0])
    names = list(parts[0][0])
    arrays = {name: np.concatenate([found[name] for found, _ in parts]) for name in names}
    cut = np.concatenate([marks for _, marks in parts])
    boxes, scores, labels = (arrays[name] for name in _ROWS)
    kept = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        # Within a class the best box goes first, whole ones before cut ones; it removes those of an
        # IoU above ``nms_thresh``, and of the cut ones those that it covers by half.
        order = own[np.lexsort((-scores[own], cut[own]))]
        kept.append(_survivors(boxes, cut, order, nms_thresh))
    rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    rows = rows[np.argsort(-scores[rows], kind="stable")][:top_k]
    return {name: array[rows] for name, array in arrays.items()}


def _survivors(
    boxes: np.ndarray, cut: np.ndarray, order: np.ndarray, nms_thresh: float
) -> np.ndarray:
    """Rows of one class that stay, out of ``order``, the first of which always does."""
    left, right = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    areas = np.prod(np.maximum(right - left, 0), axis=1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(left[best], left[order]), np.minimum(right[best], right[order])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[best] + areas[order] - shared
        gone = shared > nms_thresh * union
        gone |= cut[order] & (shared >= COVERED * areas[order]) & (areas[order] > 0)
        order = order[~gone]
    return np.array(kept, np.int64)
