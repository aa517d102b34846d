"""Detections from a COCO results file, to be scored without the model that made them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.dataset import DetectionDataset
from ..structures import Entry
from .collect import Collected, add_truth


def read_results(path: Path, dataset: DetectionDataset) -> Collected:
    """Detections of a results file beside the ground truth of the data they are of.

    Args:
        path: JSON, a list of entries as ``results_entries`` gives them: ``image_id`` and
            ``category_id`` are the data's own (of VOC the image's name, and the label), ``bbox``
            [x, y, width, height] in pixels, ``score``, and perhaps ``segmentation`` and
            ``keypoints``.
        dataset: with ``sizes``, ``ids``, ``category_ids`` and ``ground_truth``.

    Returns:
        What :func:`collect` gives, without a time.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such list, or an entry is of another data set; the entry is named.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}, expected a list of detections")
    out = Collected(tuple(dataset.class_names))
    for i, (height, width) in enumerate(dataset.sizes.tolist()):
        add_truth(out, dataset, i, (height, width), dataset.items[i].image_id)
    images = {_key(own): number for number, own in enumerate(out.ids, 1)}
    count = len(out.class_names) - 1
    own_labels = dataset.category_ids or range(1, count + 1)
    labels = {own: label for label, own in enumerate(own_labels, 1) if own >= 0}
    out.found = [_entry(path, i, entry, images, labels) for i, entry in enumerate(entries)]
    out.masks = dataset.masks and _all_have(out.found, "segmentation")
    points = {len(e["keypoints"]) for e in out.truth if "keypoints" in e}
    if points and _all_have(out.found, "keypoints"):
        out.keypoints = _keypoints(path, out.found, points)
    return out


def _all_have(entries: Sequence[Entry], name: str) -> bool:
    return bool(entries) and all(name in entry for entry in entries)


def _keypoints(path: Path, found: Sequence[Entry], points: set[int]) -> int:
    """How many keypoints an object has on both sides."""
    wanted = max(points)
    for i, entry in enumerate(found):
        if len(entry["keypoints"]) != wanted:
            raise ValueError(
                f"{path}: entry {i} has {len(entry['keypoints'])} numbers of keypoints, and the "
                f"data {wanted}"
            )
    return wanted // 3


def _key(image_id: object) -> str:
    """Ids are equal as numbers and as text."""
    return str(image_id)


def _entry(
    path: Path, at: int, entry: object, images: Mapping[str, int], labels: Mapping[int, int]
) -> Entry:
    where = f"{path}: entry {at}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is a {type(entry).__name__}, expected a detection")
    if lacking := [k for k in ("image_id", "category_id", "bbox", "score") if k not in entry]:
        raise ValueError(f"{where} has no {lacking[0]}: expected detections as COCO has them")
    category = entry["category_id"]
    image = images.get(_key(entry["image_id"]))
    label = labels.get(category) if isinstance(category, int) else None
    if image is None or label is None:
        name = "image_id" if image is None else "category_id"
        raise ValueError(f"{where}: {name} {entry[name]!r} is not in the data: is it of another?")
    rows = {"bbox": entry["bbox"], "score": [entry["score"]]}
    if "keypoints" in entry:
        rows["keypoints"] = entry["keypoints"]
    for name, values in rows.items():
        count = {"bbox": 4, "score": 1}.get(name)
        if not (
            isinstance(values, list)
            and count in (None, len(values))
            and all(_is_number(value) for value in values)
        ):
            raise ValueError(f"{where}: {name} {entry[name]!r}, expected finite numbers")
    return {**entry, "image_id": image, "category_id": label}


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]
