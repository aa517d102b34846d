"""COCO annotations: one JSON file of boxes, masks and keypoints, and the folder of its images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checks import Item, RawObject, check_class_names, make_item
from .dataset import DetectionDataset
from .keypoints import KeypointKind, category_keypoints, read_keypoints
from .sample import Defect
from .splits import find_json, split_names

_LISTS = ("images", "annotations", "categories")
_TRIED = 50  # images looked for to tell the folder


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of COCO annotations.

    Args:
        path: the file.

    Returns:
        Its dict, with lists of dicts under ``images``, ``annotations`` and ``categories``.

    Raises:
        ValueError: not JSON, or JSON of another kind.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            data = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} at line {error.lineno}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(data, list):
        kind = "COCO results" if data and _is(data[0], "image_id") else "a list"
        raise ValueError(f"{path} holds {kind}: expected COCO annotations, a dict with {_LISTS}")
    lacking = [name for name in _LISTS if not isinstance(data, dict) or name not in data]
    if lacking:
        raise ValueError(f"{path} is not COCO annotations: it has no {', '.join(lacking)}")
    for name in _LISTS:
        if not isinstance(data[name], list) or not all(isinstance(e, dict) for e in data[name]):
            raise ValueError(f"{path} is not COCO annotations: {name} is not a list of dicts")
    return dict(data)


def open_coco(
    path: Path,
    split: str | None = None,
    images: Path | None = None,
    masks: bool | None = False,
    keypoints: bool | None = False,
) -> DetectionDataset:
    """Read COCO annotations.

    Labels 1, 2, ... stand for the categories by rising id, whatever gaps the ids have; images come
    by rising id. Segmentations are drawn when an image is loaded.

    Args:
        path: the JSON file, or a folder with one, or one a split (named so, or its folder is).
        split: ``"train"``, ``"val2017"``, ... Default: the only one.
        images: the folder that ``file_name`` counts from. Default: looked for beside the JSON.
        masks: whether objects need a segmentation; ``None``: if the data has any.
        keypoints: whether samples carry keypoints; ``None``: if the categories name some, and all
            the same ones.

    Returns:
        The dataset.

    Raises:
        ValueError: JSON of another kind, no image found, several files and no split, or with
            ``keypoints`` categories that have none or differ in them.
        FileNotFoundError: ``images`` does not exist.
    """
    path, splits = find_json(path, split)
    data = read_json(path)
    defects: list[Defect] = []
    categories = _categories(data["categories"], path)
    kind = _keypoint_kind(data["categories"], path, keypoints, defects)
    label_of = {id_: label for label, id_ in enumerate(categories, 1)}
    entries = _images(data["images"], path, defects)
    by_image = _by_image(data["annotations"], entries, path, defects)
    folder = _image_folder(path, [str(e["file_name"]) for e in entries.values()], images)
    if masks is None:
        masks = any(annotation.get("segmentation") for annotation in data["annotations"])
    items = []
    for id_, entry in entries.items():
        item = _item(folder, entry, by_image.get(id_, []), label_of, masks, kind, defects)
        if item is not None:
            items.append(item)
    return DetectionDataset(
        items,
        check_class_names(list(categories.values())),
        tuple(categories),
        tuple(defects),
        "coco",
        masks,
        splits,
        kind.names if kind else None,
        kind.skeleton if kind else None,
    )


def _is(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def _categories(entries: Sequence[Mapping[str, Any]], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry.get("id"), int) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{path}: category {dict(entry)}: expected an integer id and a name")
        if entry["id"] in found:
            raise ValueError(f"{path}: category id {entry['id']} comes up twice")
        found[entry["id"]] = entry["name"]
    if not found:
        raise ValueError(f"{path} has no categories")
    return dict(sorted(found.items()))


def _keypoint_kind(
    categories: Sequence[Mapping[str, Any]],
    path: Path,
    wanted: bool | None,
    defects: list[Defect],
) -> KeypointKind | None:
    """Which keypoints samples carry, ``None`` for no keypoints."""
    if wanted is False:
        return None
    try:
        kind = category_keypoints(categories, path, defects)
    except ValueError:
        if wanted:
            raise
        return None
    if wanted and kind is None:
        raise ValueError(f"{path} has no keypoints: expected their names in one of its categories")
    return kind


def _images(
    entries: Sequence[Mapping[str, Any]], path: Path, defects: list[Defect]
) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for entry in entries:
        id_, name = entry.get("id"), entry.get("file_name")
        if not isinstance(id_, int | str) or not isinstance(name, str) or not name:
            problem = f"image {dict(entry)}: expected id and file_name"
        elif id_ in found:
            problem = f"image id {id_} comes up twice"
        else:
            found[id_] = entry
            continue
        defects.append(Defect(str(path), problem, "image dropped"))
    if not found:
        raise ValueError(f"{path} has no images")
    numbers = all(isinstance(id_, int) for id_ in found)
    return dict(sorted(found.items(), key=lambda pair: pair[0] if numbers else str(pair[0])))


def _by_image(
    annotations: Sequence[dict[str, Any]],
    images: Mapping[Any, Any],
    path: Path,
    defects: list[Defect],
) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for number, annotation in enumerate(annotations):
        id_ = annotation.get("image_id")
        if isinstance(id_, int | str) and id_ in images:
            found.setdefault(id_, []).append(annotation)
        else:
            where = f"{path}, annotation {annotation.get('id', f'number {number}')}"
            defects.append(Defect(where, f"image id {id_} is not in images", "object dropped"))
    return found


def _image_folder(path: Path, names: Sequence[str], given: Path | None) -> Path:
    """The folder where most of the first images are."""
    if given is not None:
        if not given.is_dir():
            raise FileNotFoundError(f"no such folder of images: {given}")
        folders = [given]
    else:
        near = [path.parent, path.parent.parent]
        stems = split_names(path, path.parent.parent)
        inner = ["images", "data", "JPEGImages", *stems]
        inner += [f"images/{stem}" for stem in stems]
        folders = [*near, *(folder / name for folder in near for name in inner)]
    tried = names[:: max(len(names) // _TRIED, 1)]
    found = [sum((folder / name).is_file() for name in tried) for folder in folders]
    if max(found) == 0 and not any((folder / n).is_file() for folder in folders for n in names):
        where = given or f"{path.parent} or the folders beside it"
        raise ValueError(f"{path}: none of its {len(names)} images ({names[0]}, ...) is in {where}")
    return folders[found.index(max(found))]


def _item(
    folder: Path,
    entry: Mapping[str, Any],
    annotations: Sequence[dict[str, Any]],
    label_of: Mapping[int, int],
    masks: bool,
    kind: KeypointKind | None,
    defects: list[Defect],
) -> Item | None:
    path = folder / str(entry["file_name"])
    height, width = entry.get("height"), entry.get("width")
    annotated = None
    if isinstance(height, int) and isinstance(width, int) and height > 0 < width:
        annotated = (height, width)
    objects, truth = [], []
    for annotation in annotations:
        where = f"annotation {annotation.get('id', '')}".strip()
        box, label = annotation.get("bbox"), _label(annotation.get("category_id"), label_of)
        problem = None
        if label is None:
            problem = f"category id {annotation.get('category_id')} is not in categories"
        elif not _numbers(box):
            problem = f"bbox {box}: expected four numbers"
        if problem is not None or label is None or box is None:
            defects.append(Defect(f"{path}, {where}", problem or "", "object dropped"))
            continue
        x, y, width, height = (float(v) for v in box)
        crowd = bool(annotation.get("iscrowd", 0))
        segmentation = _compact(annotation.get("segmentation")) if masks else None
        corners = (x, y, x + width, y + height)
        points = annotation.get("keypoints") if kind else None
        objects.append(
            RawObject(where, corners, label, crowd, segmentation=segmentation, keypoints=points)
        )
        truth.append(
            {
                "category_id": label,
                "bbox": [x, y, width, height],
                "area": float(annotation.get("area", width * height)),
                "iscrowd": int(crowd),
                "difficult": int(bool(annotation.get("difficult", 0))),
                **({"segmentation": segmentation} if segmentation else {}),
                **(_true_keypoints(annotation, len(kind.names)) if kind else {}),
            }
        )
    count = len(kind.names) if kind else None
    item = make_item(path, entry["id"], str(path), annotated, objects, defects, masks, count)
    if item is not None:
        item.truth = truth
    return item


def _true_keypoints(annotation: Mapping[str, Any], count: int) -> dict[str, Any]:
    """An annotation's keypoints for an evaluator, which passes over objects with a count of 0."""
    points, problem = read_keypoints(annotation.get("keypoints"), count)
    visible = int(np.count_nonzero(points[:, 2]))
    given = annotation.get("num_keypoints", visible)
    number = given if isinstance(given, int) and problem is None else visible
    return {"keypoints": points.reshape(-1), "num_keypoints": number}


def _label(category_id: Any, label_of: Mapping[int, int]) -> int | None:
    return label_of.get(category_id) if isinstance(category_id, int) else None


def _numbers(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
        and all(math.isfinite(v) for v in box)
    )


def _compact(segmentation: Any) -> Any:
    """Polygons as arrays, which take an eighth of the memory of lists; anything else as it is."""
    if not isinstance(segmentation, list) or not segmentation:
        return segmentation or None
    try:
        return [np.asarray(polygon, np.float64).reshape(-1) for polygon in segmentation]
    except (TypeError, ValueError):
        return segmentation
