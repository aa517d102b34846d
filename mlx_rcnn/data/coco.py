"""COCO annotations: one JSON file of boxes, masks and keypoints, and the folder of its images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .annotation import place, read_annotation
from .categories import read_categories
from .dataset import DetectionDataset
from .fields import Fields, Notes, shown, whole
from .folders import find_images
from .items import Item, Masks, check_class_names, drop_below_a_pixel, make_item
from .keypoints import KeypointKind, category_keypoints
from .sample import Defect
from .splits import find_json, other_tool

_LISTS = ("images", "annotations", "categories")


def read_json(path: Path) -> dict[str, Any]:
    """The dict of a file of COCO annotations with its three lists; ValueError for another file."""
    try:
        data = json.loads(path.read_bytes())  # UTF-8, 16 or 32, with a mark or without
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {str(error)[:200]}") from error
    tool = other_tool(data)
    if tool is not None:
        raise ValueError(f"{path} is {tool}")
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
    masks: Masks | None = False,
    keypoints: bool | None = False,
) -> DetectionDataset:
    """Read COCO annotations; labels 1, 2, ... are categories by rising id, images come so too."""
    path, splits = find_json(path, split)  # one file, or one a split: named so, or its folder is
    data = read_json(path)
    defects: list[Defect] = []
    notes = Notes(path)
    annotations = data["annotations"]
    used = {whole(annotation.get("category_id")) for annotation in annotations}
    categories = read_categories(data["categories"], used, path, notes, defects)
    # by default if the categories name some, and all the same ones
    kind = _keypoint_kind(data["categories"], path, keypoints, defects)
    label_of = {id_: label for label, id_ in enumerate(categories, 1)}
    entries = _images(data["images"], path, notes, defects)
    by_image = _by_image(annotations, entries, path, notes, defects)
    # without ``images`` looked for beside the JSON
    files = find_images(path, [str(e["file_name"]) for e in entries.values()], images)
    if masks is None:  # whether the data has any; they are drawn when an image is loaded
        masks = any(annotation.get("segmentation") for annotation in annotations)
    source = _Source(files, label_of, masks, kind, notes, defects)
    items = [_item(source, id_, entry, by_image.get(id_, [])) for id_, entry in entries.items()]
    drop_below_a_pixel(items, path, defects)
    return DetectionDataset(
        [item for item in items if item is not None],
        check_class_names(list(categories.values())),
        tuple(categories),
        (*notes.defects(), *defects),
        "coco",
        masks is True,
        splits,
        kind.names if kind else None,
        kind.skeleton if kind else None,
    )


def _is(value: object, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def _keypoint_kind(
    categories: Sequence[Fields],
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
    entries: Sequence[Fields], path: Path, notes: Notes, defects: list[Defect]
) -> dict[int | str, Fields]:
    """By id: a whole number, or text where the file has that."""
    found: dict[int | str, Fields] = {}
    for entry in entries:
        id_, name = _image_id(entry.get("id")), entry.get("file_name")
        if id_ is None or not isinstance(name, str) or not name.strip() or "\0" in name:
            problem = f"image {shown(dict(entry))}: expected id and file_name"
        elif id_ in found:
            problem = f"image id {id_} comes up twice"
        else:
            found[id_] = entry
            if isinstance(entry["id"], float):
                notes.add("image id has a fraction of zero", "read as a whole number", f"{name}")
            continue
        defects.append(Defect(str(path), problem, "image dropped"))
    if not found:
        raise ValueError(f"{path} has no images")
    numbers = all(isinstance(id_, int) for id_ in found)
    return dict(sorted(found.items(), key=lambda pair: pair[0] if numbers else str(pair[0])))


def _image_id(value: object) -> int | str | None:
    return value if isinstance(value, str) and value else whole(value)


def _by_image(
    annotations: Sequence[Fields],
    images: Mapping[int | str, Fields],
    path: Path,
    notes: Notes,
    defects: list[Defect],
) -> dict[int | str, list[Fields]]:
    # Ids of text stand for numbers where the other list has those; "7" and "07" stay two images.
    numbers: dict[int | None, list[int | str]] = {}
    for own in images:
        numbers.setdefault(whole(own), []).append(own)
    found: dict[int | str, list[Fields]] = {}
    for index, annotation in enumerate(annotations):
        given = annotation.get("image_id")
        id_ = _image_id(given)
        if id_ not in images:
            same = numbers.get(whole(given), []) if whole(given) is not None else []
            id_ = same[0] if len(same) == 1 else None
        if id_ is None:
            where = place(annotation) if "id" in annotation else f"annotation number {index}"
            problem = f"image id {shown(given)} is not in images"
            defects.append(Defect(f"{path}, {where}", problem, "object dropped"))
            continue
        found.setdefault(id_, []).append(annotation)
        if type(given) is not type(id_):
            notes.add("image_id is of another type than in images", "matched", place(annotation))
    return found


@dataclass(frozen=True)
class _Source:
    """What all images of a file share."""

    files: Mapping[str, Path]
    label_of: Mapping[int, int]
    masks: Masks
    kind: KeypointKind | None
    notes: Notes
    defects: list[Defect]


def _item(
    source: _Source,
    image_id: int | str,
    entry: Fields,
    annotations: Sequence[Fields],
) -> Item | None:
    path = source.files[str(entry["file_name"])]
    count = len(source.kind.names) if source.kind else None
    objects = []
    for annotation in annotations:
        read = read_annotation(annotation, source.label_of, source.notes, source.masks, count)
        if isinstance(read, str):
            where = f"{path}, {place(annotation)}"
            source.defects.append(Defect(where, read, "object dropped"))
        else:
            objects.append(read)
    size = _size(entry, source.notes)
    name = str(path)
    return make_item(path, image_id, name, size, objects, source.defects, source.masks, count)


def _size(entry: Fields, notes: Notes) -> tuple[int, int] | None:
    """(height, width) as annotated; ``None`` where missing or zero, as some tools write it."""
    given = entry.get("height"), entry.get("width")
    height, width = (whole(side) for side in given)
    usable = height is not None and width is not None and height > 0 < width
    if any(side not in (None, 0, -1) and not isinstance(side, int) for side in given):
        rule = "read as one" if usable else "size of the file taken"
        notes.add("width or height is not a whole number of JSON", rule, str(entry["file_name"]))
    return (height, width) if height and width and usable else None
