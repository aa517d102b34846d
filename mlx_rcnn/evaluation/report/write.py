"""A report on disk: index.html and report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.protocols import Dataset
from ...files import new_folder, replacing
from ...structures import Entry
from ..analysis import error_analysis
from ..coco import coco_metrics
from ..collect import Collected
from ..compare import compare
from ..table import Scores
from .page import GENERATOR, html_page
from .pictures import Shown, figures

Report = dict[str, Any]
"""What ``report.json`` holds."""
PAGE, NUMBERS = "index.html", "report.json"
_WORST, _CHANGED = 12, 3  # images with pictures
_DIGITS = 6


def write_report(
    folder: Path | str,
    collected: Collected,
    dataset: Dataset | None = None,
    *,
    names: Sequence[str] = ("model", "other"),
    data: str = "data",
    against: Collected | None = None,
    metrics: Scores | None = None,
) -> Report:
    """Write an evaluation as one page to read, and its numbers as JSON.

    ``index.html`` needs no other file and no network. Both files are replaced together.

    Args:
        folder: where ``index.html`` and ``report.json`` go; made if it is missing.
        collected: of :func:`~mlx_rcnn.evaluation.collect` or
            :func:`~mlx_rcnn.evaluation.read_results`.
        dataset: that it is of, for pictures of the worst images. Default: none are drawn.
        names: of the model, and of the one it is compared with.
        data: name of the data. Default: ``"data"``.
        against: detections of another model on the same images. Default: none.
        metrics: of ``collected``, by :func:`~mlx_rcnn.evaluation.coco_metrics`, where they are
            known already. Default: computed.

    Returns:
        What ``report.json`` holds, where NaN is ``null``: ``model``, ``data``, ``metrics`` (see
        :func:`~mlx_rcnn.evaluation.coco_metrics`), ``analyses``: by kind, ``bbox`` and, of models
        and data with masks, ``segm``, see :func:`~mlx_rcnn.evaluation.error_analysis`;
        ``pictures``, the kind that images are judged by; and ``against``, if it was given:
        ``model``, ``metrics``, ``analyses`` and ``difference``, by kind, this model less the other.

    Raises:
        FileExistsError: the folder holds files of these names that are not of a report.
        OSError: it cannot be written; what was there before is untouched.
        ImportError: faster-coco-eval is not installed.
        ValueError: ``against`` lacks images.
    """
    folder = Path(folder)
    check_replaceable(folder)
    report = _report(collected, names[0], data, metrics)
    if against is not None:
        against = _on_images_of(collected, against)
        report["against"] = _against(report, against, names[1])
    kind, changed = report["pictures"], {}
    shown = Shown(collected, report["analyses"][kind], dataset)
    if against is not None:
        other = Shown(against, report["against"]["analyses"][kind], dataset, names[1])
        changed = _changed(shown._replace(name=names[0]), other)
    page = html_page(report, _worst(shown), changed)
    numbers = json.dumps(_plain(report), allow_nan=False) + "\n"
    if folder.is_dir() and any(folder.iterdir()):
        _save(folder, page, numbers)
    else:
        with new_folder(folder) as part:
            _save(part, page, numbers)
    return report


def _save(folder: Path, page: str, numbers: str) -> None:
    """Both files, or neither."""
    with replacing(folder / NUMBERS) as second, replacing(folder / PAGE) as first:
        second.write_text(numbers, encoding="utf-8")
        # A file name that is no Unicode must not stop the report.
        first.write_bytes(page.encode("utf-8", "xmlcharrefreplace"))


def check_replaceable(folder: Path) -> None:
    """Refuse, by FileExistsError, to write over what is not a report; the folder need not exist."""
    page = folder / PAGE
    if page.is_file():
        with open(page, encoding="utf-8", errors="replace") as file:
            if GENERATOR in file.read(1000):
                return
    for path in (page, folder / NUMBERS):
        if path.exists() or path.is_symlink():
            raise FileExistsError(
                f"{path} is there and is not of a report: expected another folder"
            )


def _on_images_of(collected: Collected, against: Collected) -> Collected:
    """``against`` without images that ``collected`` lacks, such as those that were unreadable."""
    numbers = {own: number for number, own in enumerate(collected.ids, 1)}
    new = {old: numbers[own] for old, own in enumerate(against.ids, 1) if own in numbers}
    if len(new) < len(numbers):
        raise ValueError(
            f"the other model's detections are of {len(new)} of the {len(numbers)} images: "
            "expected all of them"
        )

    def renumbered(entries: list[Entry], key: str) -> list[Entry]:
        return [{**e, key: new[e[key]]} for e in entries if e[key] in new]

    return replace(
        against,
        images=sorted(renumbered(against.images, "id"), key=lambda e: int(e["id"])),
        truth=renumbered(against.truth, "image_id"),
        found=renumbered(against.found, "image_id"),
        ids=list(collected.ids),
    )


def _report(collected: Collected, name: str, data: str, metrics: Scores | None = None) -> Report:
    kinds = ("bbox", "segm") if collected.masks else ("bbox",)
    return {
        "model": name,
        "data": data,
        "metrics": coco_metrics(collected) if metrics is None else metrics,
        "analyses": {kind: error_analysis(collected, kind) for kind in kinds},
        "pictures": kinds[-1],
    }


def _against(report: Report, against: Collected, name: str) -> Report:
    """The other model's numbers and the difference; images are judged by what both have."""
    other = _report(against, name, report["data"])
    shared = [kind for kind in report["analyses"] if kind in other["analyses"]]
    report["pictures"] = shared[-1]
    mine, theirs = report["analyses"], other["analyses"]
    difference = {kind: compare(mine[kind], theirs[kind]) for kind in shared}
    kept = {key: other[key] for key in ("model", "metrics", "analyses")}
    return {**kept, "difference": difference}


def _worst(shown: Shown) -> list[str]:
    """Figures of the images with the lowest F1, if the images are there."""
    if shown.dataset is None:
        return []
    rows = [row for row in shown.analysis["images"] if row["wrong"] or row["missed"]]
    rows.sort(key=lambda row: (row["F1"], -row["wrong"] - row["missed"]))
    return figures(shown, [row["image_id"] for row in rows[:_WORST]])


def _changed(mine: Shown, theirs: Shown) -> dict[str, list[str]]:
    """Figures of the images that one model does better and worse than the other, of both."""
    if mine.dataset is None:
        return {}
    images = compare(mine.analysis, theirs.analysis)["images"]
    better = [row["image_id"] for row in images if row["difference"] > 0]
    worse = [row["image_id"] for row in images if row["difference"] < 0][::-1]
    drawn = {}
    for title, ids in (("Better", better[:_CHANGED]), ("Worse", worse[:_CHANGED])):
        pairs = zip(figures(mine, ids), figures(theirs, ids), strict=True)
        drawn[title] = [figure for pair in pairs for figure in pair]
    return drawn


def _plain(value: object) -> object:
    """For JSON: rounded, and ``None`` for what is not a number."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value
