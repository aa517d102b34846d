"""The shapes of CVAT's XML: boxes, polygons, masks, ellipses, points and skeletons."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

import numpy as np

from ...ops.rle import encode_rle
from ..fields import mark, number, whole
from .shapes import Shape, ellipse_polygon, turned

_Size = tuple[int, int] | None


def read_shape(element: Element, where: str, size: _Size) -> Shape | str:
    """A child of ``<image>`` of annotated ``size`` (height, width), in pixels; or what is wrong."""
    label = (element.get("label") or "").strip()
    if not label:
        return "no label"
    reader = _READERS.get(element.tag)
    if reader is None:
        return f"a {element.tag} is not read: expected a box, polygon, mask, ellipse or points"
    group = (element.get("group_id") or "").strip()
    shape = Shape(where, label, group=None if group in ("", "0") else group)
    for attribute in element.findall("attribute"):
        name = (attribute.get("name") or "").strip().lower()
        if name == "difficult":
            shape.difficult = bool(mark(attribute.text or ""))
        elif name in ("iscrowd", "is_crowd"):
            shape.crowd = bool(mark(attribute.text or ""))
    return reader(element, shape, size) or shape


def _numbers(element: Element, *names: str) -> list[float] | str:
    found: list[float] = []
    for name in names:
        value = number(element.get(name))
        if value is None:
            return f"{name}={element.get(name)!r}: expected a number"
        found.append(value)
    return found


def _box(element: Element, shape: Shape, _: _Size) -> str | None:
    corners = _numbers(element, "xtl", "ytl", "xbr", "ybr")
    if isinstance(corners, str):
        return corners
    x1, y1, x2, y2 = corners
    shape.box = x1, y1, x2, y2
    degrees = number(element.get("rotation") or 0)
    if degrees is None:
        return f"rotation={element.get('rotation')!r}: expected degrees"
    if degrees % 360 and x1 < x2 and y1 < y2:
        centre = np.array([x1 + x2, y1 + y2]) / 2
        points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]) - centre
        corner = turned(points, degrees) + centre
        (x1, y1), (x2, y2) = corner.min(axis=0), corner.max(axis=0)
        shape.box = float(x1), float(y1), float(x2), float(y2)
        shape.polygons = [corner.reshape(-1)]
    return None


def _places(text: str | None) -> np.ndarray | str:
    """(K, 2) of ``x,y;x,y``."""
    pairs = [pair.split(",") for pair in (text or "").split(";") if pair.strip()]
    numbers = [[number(v) for v in pair] for pair in pairs]
    if not pairs or any(len(pair) != 2 or None in pair for pair in numbers):
        return f"points {(text or '')[:40]!r}: expected x,y;x,y;..."
    return np.array(numbers, np.float64)


def _polygon(element: Element, shape: Shape, _: _Size) -> str | None:
    points = _places(element.get("points"))
    if isinstance(points, str):
        return points
    if len(points) < 3:
        return f"a polygon of {len(points)} points: expected at least three"
    shape.polygons = [points.reshape(-1)]
    return None


def _ellipse(element: Element, shape: Shape, _: _Size) -> str | None:
    values = _numbers(element, "cx", "cy", "rx", "ry")
    if isinstance(values, str):
        return values
    cx, cy, rx, ry = values
    if rx <= 0 or ry <= 0:
        return f"an ellipse of radii {rx:g} and {ry:g}: expected more than 0"
    shape.polygons = [ellipse_polygon((cx, cy), (rx, ry), number(element.get("rotation")) or 0.0)]
    return None


def _mask(element: Element, shape: Shape, size: _Size) -> str | None:
    """Run lengths along the rows of the mask's own rectangle, zeros first."""
    if size is None:
        return "a mask in an image without width and height"
    sides = [whole(element.get(name)) for name in ("left", "top", "width", "height")]
    if None in sides:
        return "mask: expected whole numbers left, top, width and height"
    left, top, width, height = (int(side or 0) for side in sides)
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        return f"mask of {width}x{height} at {left}, {top} leaves the image of {size[1]}x{size[0]}"
    runs = [whole(run) for run in (element.get("rle") or "").split(",")]
    if any(run is None or run < 0 for run in runs):
        return "mask: rle: expected run lengths between commas"
    lengths = np.array(runs, np.int64)
    if lengths.sum(dtype=np.float64) != width * height:
        return f"mask: rle adds up to {lengths.sum(dtype=np.float64):.0f}, not {width} x {height}"
    values = np.arange(len(lengths)) % 2 == 1
    whole_mask = np.zeros(size, bool)
    part = np.repeat(values, lengths).reshape(height, width)
    whole_mask[top : top + height, left : left + width] = part
    shape.rle = encode_rle(whole_mask)
    return None


def _points(element: Element, shape: Shape, _: _Size) -> str | None:
    points = _places(element.get("points"))
    if isinstance(points, str):
        return points
    seen = 1 if element.get("occluded") == "1" else 2
    for i, (x, y) in enumerate(points.tolist(), 1):
        name = shape.label if len(points) == 1 else f"{shape.label}_{i}"
        shape.points[name] = x, y, seen
    return None


def _skeleton(element: Element, shape: Shape, _: _Size) -> str | None:
    for part in element.findall("points"):
        name = (part.get("label") or "").strip()
        points = _places(part.get("points"))
        if isinstance(points, str) or not name or len(points) != 1:
            return points if isinstance(points, str) else "skeleton: expected a label and a point"
        seen = 1 if part.get("occluded") == "1" else 2
        x, y = points[0].tolist()
        shape.points[name] = (0.0, 0.0, 0) if part.get("outside") == "1" else (x, y, seen)
    return None if shape.points else "a skeleton without points"


_READERS: dict[str, Callable[[Element, Shape, _Size], str | None]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
    "points": _points,
    "skeleton": _skeleton,
}
