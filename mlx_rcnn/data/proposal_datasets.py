"""Datasets with proposals: each image with the boxes that a file or a mapping has for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..inputs.proposals import Proposed, as_proposed, check_proposals
from ..messages import listing, one_line
from ..structures import ArrayLike
from .dataset import DetectionDataset
from .fields import number, shown
from .items import Item
from .proposal_files import image_names, read_proposals
from .protocols import OnDisk

_MOST = 2000  # of an image, as in R-CNN and Fast R-CNN


Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Proposed | ArrayLike]"


def with_proposals(
    dataset: DetectionDataset,
    source: Source,
    limit: int | None = _MOST,
    *,
    allow_missing: bool = False,
) -> DetectionDataset:
    """A dataset whose samples have ``target["proposals"]``.

    That is (P, 4) float32, xyxy in pixels of the image, cut to it, the best first by the scores,
    or as they stand where there are none. Augmentations move them with the image.

    Args:
        dataset: of :func:`open_dataset`.
        source: a ``.npz`` of :func:`write_proposals`, a COCO results file (``.json``, see
            :func:`read_proposal_results`), or boxes (P, 4) or :class:`Proposed` by image, called as
            in :func:`write_proposals`. Entries of other images are passed over.
        limit: the most an image, the best are kept; ``None`` for all. Default: ``2000``, as in
            R-CNN and Fast R-CNN.
        allow_missing: give an image without an entry no proposals, as for a results file of a
            detector that found nothing there. Default: ``False``.

    Returns:
        The dataset with proposals; the one given is not changed.

    Raises:
        OSError: the file cannot be read.
        ValueError: images without an entry, a file or boxes that are wrong, see
            :func:`check_proposals`; the first image is named.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1, or None")
    entries, called = _entries(dataset, source)
    found = _by_item(dataset.items, entries, called)
    if not allow_missing:
        _check_complete(dataset.items, found, entries, called)
    boxes = [np.zeros((0, 4), np.float32) if e is None else _best(e, limit) for e in found]
    highest = max((float(rows.max()) for rows in boxes if len(rows)), default=2.0)
    if highest <= 1:
        raise ValueError(f"{called}: all boxes lie in 0 to 1: expected pixels, not fractions")
    names = [f"{item.name} in {called}" for item in dataset.items]
    cut = check_proposals(boxes, dataset.sizes, names)
    items = [replace(item, proposals=b) for item, b in zip(dataset.items, cut, strict=True)]
    return replace(dataset, items=items)


def read_proposal_results(path: str | os.PathLike[str], dataset: OnDisk) -> dict[str, Proposed]:
    """Proposals from a COCO results file, such as those of another detector.

    Args:
        path: JSON, a list of entries with ``image_id``, which is the dataset's own as number or
            text, ``bbox`` [x, y, width, height] in pixels, and ``score``. A ``category_id`` does
            not matter. Entries of images that the dataset lacks are passed over.
        dataset: with ``items`` that have ``image_id`` and ``path``.

    Returns:
        The proposals by :func:`image_names`; images without an entry are not in it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such list, or an entry is no box with a score; the entry is named.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}, expected a list of results")
    ids = [str(item.image_id) for item in dataset.items]
    names = dict(zip(ids, image_names(dataset), strict=True))
    rows: dict[str, list[list[float]]] = {}
    for at, entry in enumerate(entries):
        image_id, row = _result(entry, f"{path}: entry {at}")
        if image_id in names:
            rows.setdefault(names[image_id], []).append(row)
    found = {name: np.array(of_image, np.float64) for name, of_image in rows.items()}
    return {
        name: as_proposed(of_image[:, :4], of_image[:, 4], f"{path}: proposals of {name}")
        for name, of_image in found.items()
    }


def _result(entry: object, where: str) -> tuple[str, list[float]]:
    """The image's id, and x1, y1, x2, y2, score."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is a {type(entry).__name__}, expected a result")
    if lacking := [name for name in ("image_id", "bbox", "score") if name not in entry]:
        raise ValueError(f"{where} has no {lacking[0]}: expected image_id, bbox and score")
    box = entry["bbox"]
    values = [number(v) for v in box] if isinstance(box, list) and len(box) == 4 else []
    score = number(entry["score"])
    if None in values or not values:
        raise ValueError(f"{where}: bbox {shown(box)}, expected x, y, width, height")
    if score is None:
        raise ValueError(f"{where}: score {shown(entry['score'])}, expected a finite number")
    x, y, width, height = (float(v) for v in values if v is not None)
    if width <= 0 or height <= 0:
        raise ValueError(f"{where}: bbox {shown(box)} has no area: expected x, y, width, height")
    return str(entry["image_id"]), [x, y, x + width, y + height, float(score)]


def _entries(dataset: OnDisk, source: Source) -> tuple[Mapping[str, Proposed], str]:
    """The proposals by image, and what to call their source."""
    if isinstance(source, Mapping):
        checked = {}
        for name, value in source.items():
            boxes, scores = value if isinstance(value, Proposed) else (value, None)
            checked[name] = as_proposed(boxes, scores, f"proposals of {name}")
        return checked, "proposals"
    path = Path(source)
    if path.suffix.lower() == ".json":
        return read_proposal_results(path, dataset), str(path)
    return read_proposals(path), str(path)


def _by_item(
    items: Sequence[Item], entries: Mapping[str, Proposed], called: str
) -> list[Proposed | None]:
    """The entry of each image: the one whose name is the longest end of its path."""
    out: list[Proposed | None] = []
    owners: dict[str, Path] = {}
    for item in items:
        parts = item.path.as_posix().split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        key = next((end for end in ends if end in entries), None)
        if key is not None and key in owners:
            raise ValueError(
                f"{called}: {key!r} may be {owners[key]} or {item.path}: expected names with as "
                "many folders as make them one image's"
            )
        if key is not None:
            owners[key] = item.path
        out.append(None if key is None else entries[key])
    return out


def _check_complete(
    items: Sequence[Item],
    found: Sequence[Proposed | None],
    entries: Mapping[str, Proposed],
    called: str,
) -> None:
    missing = [item.name for item, entry in zip(items, found, strict=True) if entry is None]
    if missing:
        has = f"it has {listing(list(entries), 3)}" if entries else "it has none"
        raise ValueError(
            f"{called}: {len(missing)} of {len(items)} images have no proposals, first "
            f"{missing[0]}; {has}"
        )


def _best(entry: Proposed, limit: int | None) -> np.ndarray:
    if entry.scores is None:
        return entry.boxes[:limit]
    return entry.boxes[np.argsort(-entry.scores, kind="stable")[:limit]]
