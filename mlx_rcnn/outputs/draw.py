"""Draw detections on a photo: boxes, names, scores, translucent masks and skeletons."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from ..inputs.images import load_image
from ..inputs.pixels import AnyArray
from ..inputs.windows import in_windows
from ..structures import ImageLike
from .lettering import readable
from .reduced import Pasted, reduced
from .skeletons import LOGIT_THRESH, Joints, draw_skeletons, keypoint_arrays
from .tags import SMALLEST_FONT, Color, Rect, Style, Tag, draw_tag, place_tag

_GOLDEN_RATIO = 0.6180339887498949
# Saturation and value of the colours, in turn.
_TONES = ((0.45, 1.0), (0.78, 1.0), (0.90, 0.68), (0.60, 1.0), (1.0, 1.0), (0.70, 0.85))
_READABLE_SIDE = 256  # pixels of the longer side below which a name no longer fits
_MOST_TAGS = 300  # of the best; more would hide the picture, and each is kept off all others


def draw_detections(
    image: ImageLike | AnyArray,
    prediction: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None = None,
    *,
    score_thresh: float = 0.0,
    alpha: float = 0.45,
    scale: int = 1,
    skeleton: Sequence[tuple[int, int]] | None = None,
    keypoint_thresh: float = LOGIT_THRESH,
) -> Image.Image:
    """Draw what ``predict`` found in an image. Better scores lie on top of lesser ones.

    Colours depend on the label alone. Line width and font size follow the image size; tags stay
    inside the image, and shorten when it is too narrow for them; beyond 300 objects the best have
    tags. An image that is read by windows is drawn reduced, at most 4096 pixels on its longer side.

    Args:
        image: the image that was predicted on, as :func:`mlx_rcnn.inputs.images.load_image` or
            :func:`~mlx_rcnn.predict_tiled` takes it.
        prediction: one dict of ``predict``: ``boxes`` (D, 4) xyxy in pixels of ``image``,
            ``scores`` (D,), ``labels`` (D,), and if present ``masks`` (D, H, W) bool, ``keypoints``
            (D, K, 3) of x, y and a visibility, 0 for none, and ``keypoints_scores`` (D, K). A
            target, which has no ``scores``, is drawn whole, its tags names alone.
        class_names: names indexed by label, the background's first. ``None`` writes ``class 7``.
        score_thresh (float): leave out detections that score less. Default: ``0.0``.
        alpha (float): opacity of the masks, 0 to 1. Default: ``0.45``.
        scale (int): enlarge the picture this many times first, for images too small to write
            on; see :func:`readable_scale`. Default: ``1``.
        skeleton: pairs of keypoints to join, counted from 0, as ``model.keypoint_skeleton`` has
            them. Default: dots alone.
        keypoint_thresh (float): leave out keypoints that score less. Default: ``2.0``, for logits,
            as in torchvision's example; :func:`~mlx_rcnn.outputs.skeletons.skeleton_style` tells a
            model's.

    Returns:
        A new RGB image, ``scale`` times the size of ``image``, or of its reduced picture.

    Raises:
        ValueError: arrays that do not belong together or to ``image``, or ``alpha`` outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha={alpha!r}: expected a number in [0, 1]")
    if in_windows(image):
        image, prediction = reduced(image, prediction)
    canvas = _pixels(load_image(image))
    boxes, scores, labels, masks = _arrays(prediction, canvas.shape[:2])
    joints = keypoint_arrays(prediction, len(boxes))
    # From best to worst, whatever order the prediction is in; ties keep their order.
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= score_thresh]
    if scale > 1:  # whole pixels, so that boxes and masks enlarge exactly
        canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(canvas)
    style = _style(*picture.size)
    if masks is not None:
        for i in reversed(order):
            _blend_mask(picture, masks[i], class_color(labels[i]), alpha, style.edge, scale)
    if joints is not None:
        shown = Joints(joints.points * scale, joints.scores >= keypoint_thresh)
        draw_skeletons(picture, shown, boxes * scale, order, skeleton, style.line)
    items = [
        (
            _pixel_box(boxes[i] * scale, *picture.size),
            int(labels[i]),
            float(scores[i]) if "scores" in prediction else None,
        )
        for i in order
    ]
    _draw_boxes(picture, items, style, class_names)
    return picture


def readable_scale(width: int, height: int) -> int:
    """The whole factor, 1 to 16, by which to enlarge an image so that a class name fits into it."""
    return min(16, math.ceil(_READABLE_SIDE / max(width, height)))


def _draw_boxes(
    picture: Image.Image,
    items: Sequence[tuple[Rect, int, float | None]],
    style: Style,
    class_names: Sequence[str] | None,
) -> None:
    """Draw (box, label, score), given from best to worst; all tags lie above all boxes."""
    draw = ImageDraw.Draw(picture)
    tags: list[tuple[Tag, Color]] = []
    for box, label, score in items:
        if len(tags) == _MOST_TAGS:
            break
        taken = [tag.rect for tag, _ in tags]
        tag = place_tag(box, _name(label, class_names), score, style, picture.size, taken)
        if tag is not None:
            tags.append((tag, class_color(label)))
    for box, label, _ in reversed(items):
        draw.rectangle(box, outline=class_color(label), width=style.line)
    for tag, color in reversed(tags):
        draw_tag(draw, tag, color)


@lru_cache(maxsize=1024)
def class_color(label: int) -> Color:
    """The colour of a class, (red, green, blue) of 0 to 255, wherever it is drawn."""
    # Steps of the golden ratio keep the hues of near labels far apart. Six tones in turn separate
    # labels whose hues come close, which lie 8, 13, 21, 34 or 55 apart.
    hue = (0.98 + (int(label) - 1) * _GOLDEN_RATIO) % 1.0
    saturation, value = _TONES[int(label) % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _style(width: int, height: int) -> Style:
    side = math.sqrt(width * height)
    line = max(1 if side < 400 else 2, round(side / 480))
    letters = max(13, round(side * 0.0155))
    # On a strip, three rows of text are the most that leave something of the picture to see.
    letters = max(SMALLEST_FONT, min(letters, min(width, height) // 3))
    return Style(line, max(1, round(line / 2)), letters)


def _pixels(image: np.ndarray) -> np.ndarray:
    """A writable uint8 copy."""
    if image.dtype == np.uint8:
        return image.copy()
    values: np.ndarray = np.clip(image, 0.0, 1.0) * 255.0 + 0.5
    return values.astype(np.uint8)


def _arrays(
    prediction: Mapping[str, np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | Pasted | None]:
    boxes = np.asarray(prediction["boxes"], np.float64).reshape(-1, 4)
    scores = np.asarray(prediction.get("scores", np.full(len(boxes), np.inf)), np.float64)
    labels = np.asarray(prediction["labels"]).astype(int)
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(
            f"prediction has {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels: "
            "expected as many of each"
        )
    masks: np.ndarray | Pasted | None = prediction.get("masks")
    if masks is not None:
        masks = masks if isinstance(masks, Pasted) else np.asarray(masks)
        if masks.shape != (len(boxes), *size):
            raise ValueError(
                f"masks have shape {masks.shape}: expected {(len(boxes), *size)}, full masks of "
                "this image"
            )
        masks = masks if isinstance(masks, Pasted) else masks.astype(bool, copy=False)
    return boxes, scores, labels, masks


def _blend_mask(
    picture: Image.Image, mask: np.ndarray, color: Color, alpha: float, edge: int, scale: int
) -> None:
    """Tint ``mask`` on ``picture``, its border opaque; touches only the rectangle it lies in."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    inside = mask[top:bottom, left:right]
    if scale > 1:
        inside = inside.repeat(scale, axis=0).repeat(scale, axis=1)
    core = np.pad(inside, 1)
    for _ in range(edge):  # erode by one pixel
        middle = core[1:-1, 1:-1] & core[:-2, 1:-1] & core[2:, 1:-1]
        middle &= core[1:-1, :-2]
        middle &= core[1:-1, 2:]
        core[1:-1, 1:-1] = middle
    opacity = inside * np.uint8(255)
    opacity -= core[1:-1, 1:-1] * np.uint8(255 - round(255 * alpha))
    picture.paste(color, (left * scale, top * scale), Image.fromarray(opacity))


def _pixel_box(box: np.ndarray, width: int, height: int) -> Rect:
    """The pixels a box covers, first and last, inside the image: all four sides stay visible."""
    limits = np.array([width, height]) - 1
    first = np.clip(np.floor(box[:2] + 0.5), 0, limits)
    last = np.clip(np.floor(box[2:] + 0.5) - 1, first, limits)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def _name(label: int, class_names: Sequence[str] | None) -> str:
    if class_names is not None and 0 <= label < len(class_names):
        return readable(str(class_names[label]), label) or f"class {label}"
    return f"class {label}"
