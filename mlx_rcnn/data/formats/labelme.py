"""LabelMe annotations: one JSON file an image, of shapes in pixels.

A ``group_id`` makes polygons of one label one object, and points the keypoints of the object in
their group. ``flags`` of a shape may say ``difficult``, ``iscrowd`` and, of a point, ``hidden``.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ...ops.rle import encode_rle
from ..categories import similar_names
from ..dataset import DetectionDataset
from ..fields import Fields, mark, number, shown, whole
from ..items import Item, Masks, check_class_names, drop_below_a_pixel, make_item
from ..listing import Files, list_files
from ..sample import Defect
from .lists import choose, found_splits
from .shapes import Shape, ellipse_polygon, merged_shapes, raw_objects

_NO_AREA = ("line", "linestrip", "points")
_NOT_CLASSES = ("__ignore__", "_background_", "__background__")
_embedded: list[tempfile.TemporaryDirectory[str]] = []  # removed when Python ends


@dataclass(slots=True)
class _Parsed:
    path: Path
    image: str
    size: tuple[int, int] | None
    data: object
    shapes: list[Shape] = field(default_factory=list)
    defects: list[tuple[str, str, str]] = field(default_factory=list)


def open_labelme(
    path: Path,
    split: str | None = None,
    masks: Masks | None = False,
    keypoints: bool | None = False,
) -> DetectionDataset:
    """Read LabelMe's JSON files, at any depth; ValueError for no annotations or no such split."""
    root = path if path.is_dir() else path.parent
    files = list_files(root)
    known = files.json if path.is_dir() else [PurePosixPath(path.name)]
    defects: list[Defect] = []
    # of a list ``<split>.txt`` at the top, or a folder of that name
    chosen, splits = choose(files, known, split, defects)
    parsed = {json_file: _parse(root / json_file) for json_file in known}
    usable = [found for found in parsed.values() if isinstance(found, _Parsed)]
    if not usable:
        first = next((str(found) for found in parsed.values()), "expected JSON files of LabelMe")
        raise ValueError(f"no LabelMe annotation in {path}; {first}")
    # classes and keypoints are those of the whole folder, in alphabetical order
    shapes = [shape for found in usable for shape in found.shapes]
    names = sorted({shape.label for shape in shapes})
    points = sorted({name for shape in shapes for name in shape.points})
    if keypoints and not points:
        raise ValueError(f"{path} has no keypoints: expected points with a group_id")
    # with ``None`` if points belong to objects
    wanted = points if points and keypoints is not False else None
    if masks is None:  # whether one has an outline
        masks = any(shape.polygons or shape.rle is not None for shape in shapes)
    labels = {name: label for label, name in enumerate(names, 1)}
    items: list[Item | None] = []
    for json_file in chosen:
        found = parsed[json_file]
        if isinstance(found, Defect):
            defects.append(found)
        else:
            items.append(_item(found, files, json_file, labels, wanted, masks, defects))
    defects.extend(similar_names(names, root))
    drop_below_a_pixel(items, root, defects)
    if split is None and path.is_dir():
        _unannotated(files, items, known, defects)
    return DetectionDataset(
        [item for item in items if item is not None],
        check_class_names(names),
        defects=tuple(defects),
        format="labelme",
        masks=masks is True,
        splits=splits,
        keypoint_names=tuple(wanted) if wanted else None,
    )


def splits(path: Path) -> tuple[str, ...]:
    """The names of a LabelMe folder's splits; a file has none."""
    files = list_files(path) if path.is_dir() else Files(path.parent)
    return tuple(found_splits(files, files.json))


def _parse(path: Path) -> _Parsed | Defect:
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at line {error.lineno}"
        return Defect(str(path), problem, "image dropped")
    except (OSError, ValueError, RecursionError) as error:
        return Defect(str(path), f"cannot read the JSON: {str(error)[:200]}", "image dropped")
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        return Defect(str(path), "not LabelMe's: expected a list of shapes", "image dropped")
    height, width = (whole(content.get(f"image{side}")) for side in ("Height", "Width"))
    size = (height, width) if height and width and height > 0 < width else None
    name = content.get("imagePath")
    image = name.replace("\\", "/") if isinstance(name, str) and "\0" not in name else ""
    found = _Parsed(path, image, size, content.get("imageData"))
    for place, entry in enumerate(shapes, 1):
        label = str(entry.get("label") or "").strip()
        where = f"shape {place} ({label})"
        if label in _NOT_CLASSES:
            continue
        shape = _shape(entry, label, where, size) if label else "no label"
        if isinstance(shape, str):
            found.defects.append((where, shape, "object dropped"))
        else:
            found.shapes.append(shape)
    found.shapes, lost = merged_shapes(found.shapes)
    found.defects += lost
    return found


def _shape(entry: Fields, label: str, where: str, size: tuple[int, int] | None) -> Shape | str:
    """One shape, or what is wrong with it."""
    kind = entry.get("shape_type") or "polygon"
    points = _points(entry.get("points"))
    if points is None:
        return f"points {shown(entry.get('points'))}: expected pairs of finite numbers"
    given = entry.get("flags")
    flags: Fields = given if isinstance(given, dict) else {}
    group = entry.get("group_id")
    shape = Shape(where, label, group=None if group is None else str(group))
    shape.difficult = bool(mark(entry.get("difficult"))) or bool(mark(flags.get("difficult")))
    shape.crowd = bool(mark(flags.get("iscrowd")))
    if kind == "point" and len(points) == 1:
        seen = 1 if mark(flags.get("hidden")) else 2
        shape.points = {label: (float(points[0, 0]), float(points[0, 1]), seen)}
    elif kind == "rectangle" and len(points) in (2, 4):
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        shape.box = float(x1), float(y1), float(x2), float(y2)
    elif kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        centre = float(points[0, 0]), float(points[0, 1])
        shape.polygons = [ellipse_polygon(centre, (radius, radius))]
    elif kind in ("polygon", "rotation", "oriented_rectangle") and len(points) >= 3:
        shape.polygons = [points.reshape(-1)]
    elif kind == "mask" and len(points) == 2:
        return _mask(entry, shape, points, size)
    elif kind in _NO_AREA:
        return f"a {kind} has no area: expected a rectangle, polygon, circle or mask"
    else:
        return f"{kind} of {len(points)} points is not read"
    return shape


def _points(value: object) -> np.ndarray | None:
    """(K, 2), or ``None``."""
    pairs = value if isinstance(value, list) else None
    if pairs is None or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        return None
    numbers = [[number(v) for v in pair] for pair in pairs]
    if any(v is None for pair in numbers for v in pair):
        return None
    return np.array(numbers, np.float64).reshape(-1, 2)


def _mask(
    entry: Fields, shape: Shape, points: np.ndarray, size: tuple[int, int] | None
) -> Shape | str:
    """The pixels of a mask: a picture of the rectangle, its last row and column included."""
    if size is None:
        return "a mask without imageHeight and imageWidth"
    try:
        with Image.open(BytesIO(base64.b64decode(entry.get("mask") or ""))) as picture:
            part = np.array(picture.convert("L")) > 0
    except Exception as error:  # Pillow's decoders raise all kinds
        return f"mask: {str(error)[:80]}"
    left, top = (int(v) for v in points[0])
    whole_mask = np.zeros(size, bool)
    window = whole_mask[max(top, 0) : top + part.shape[0], max(left, 0) : left + part.shape[1]]
    if window.shape != part.shape:
        return f"mask of {part.shape[1]}x{part.shape[0]} at {left}, {top} leaves the image"
    window[:] = part
    shape.rle = encode_rle(whole_mask)
    return shape


def _item(
    found: _Parsed,
    files: Files,
    json_file: PurePosixPath,
    labels: Mapping[str, int],
    keypoint_names: Sequence[str] | None,
    masks: Masks,
    defects: list[Defect],
) -> Item | None:
    image = _image(found, files)
    name = str(image)
    if image is None:
        problem = f"no image {found.image or found.path.stem}"
        try:
            image, name = _stored(found.data, found.path.stem), f"{found.path} (imageData)"
        except ValueError as error:
            problem += f", and {error}" if found.data else ""
        if image is None:
            defects.append(Defect(str(found.path), problem, "image dropped"))
            return None
    objects = raw_objects(found.shapes, labels, keypoint_names)
    defects.extend(Defect(f"{name}, {at}", problem, rule) for at, problem, rule in found.defects)
    count = None if keypoint_names is None else len(keypoint_names)
    image_id = json_file.with_suffix("").as_posix()
    return make_item(image, image_id, name, found.size, objects, defects, masks, count)


def _image(found: _Parsed, files: Files) -> Path | None:
    """The image's file: where ``imagePath`` says, beside the JSON, or anywhere if there is one."""
    folder = found.path.parent
    name = PurePosixPath(found.image).name
    for path in (folder / found.image, folder / name):
        if name and os.path.isfile(path):  # Path.is_file raises where we may not look
            return path
    here = PurePosixPath(folder.relative_to(files.root).as_posix())
    beside = [p for p in files.images if p.parent == here and p.stem == found.path.stem]
    anywhere = [p for p in files.images if name and p.name == name]
    chosen = next((paths for paths in (beside, anywhere) if len(paths) == 1), None)
    return files.root / chosen[0] if chosen else None


def _stored(data: object, stem: str) -> Path | None:
    """A temporary file of an image that is embedded in its JSON; it lives as long as Python."""
    if not isinstance(data, str) or not data:
        return None
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"its imageData is damaged: {error}") from error
    if not _embedded:
        _embedded.append(tempfile.TemporaryDirectory(prefix="mlx_rcnn-labelme-"))
    folder = Path(tempfile.mkdtemp(dir=_embedded[0].name))
    path = folder / f"{stem}{'.png' if content[1:4] == b'PNG' else '.jpg'}"
    path.write_bytes(content)
    return path


def _unannotated(
    files: Files,
    items: Sequence[Item | None],
    known: Sequence[PurePosixPath],
    defects: list[Defect],
) -> None:
    used = {item.path for item in items if item is not None}
    stems = {path.with_suffix("") for path in known}
    for image in files.images:
        if files.root / image not in used and image.with_suffix("") not in stems:
            defects.append(Defect(str(files.root / image), "no annotation", "image dropped"))
