"""Metrics laid out as text."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from ..tables import display_width, pad

_MAIN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_KEYPOINT = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
# How the table calls COCO's kinds, which lie under a prefix of the metrics' names.
_KINDS = {"": "box", "segm_": "mask", "keypoints_": "keypoint"}


Scores: TypeAlias = dict[str, Any]
"""Numbers by metric, and ``per_class``, rows by name; a user's own evaluation may give more."""


def metrics_table(found: Scores, metric: str) -> list[str]:
    """Metrics of the evaluators as lines of text: one a class, those over all, and the speed."""
    both = [f"{prefix}{key}" for prefix in _KINDS for key in ("AP", "AP50")]
    columns = both if metric == "coco" else ["AP"]
    rows = found["per_class"]
    columns = [c for c in columns if any(c in row for row in rows.values())]
    used = {name: row for name, row in rows.items() if row["objects"]}
    width = max(map(display_width, [*used, "class"]))
    heads = [_head(column) for column in columns]
    widths = [max(len(head), 9) for head in heads]
    cells = [f"  {head:>{size}}" for head, size in zip(heads, widths, strict=True)]
    lines = [f"{'class':<{width}}  objects" + "".join(cells)]
    for name, row in used.items():
        cells = [f"  {_percent(row[c]):>{size}}" for c, size in zip(columns, widths, strict=True)]
        lines.append(f"{pad(name, width)}  {row['objects']:>7}{''.join(cells)}")
    lines.append("")
    if metric == "coco":
        lines += _coco_lines(found)
    else:
        kind = "11-point" if metric == "voc07" else "area"
        lines.append(f"mAP at IoU 0.5 ({kind}) {_percent(found['mAP'])}")
    images = found["images"]
    text = f"{images} image{'s' * (images != 1)}, {found['objects']} objects, "
    text += f"{found['detections']} detections"
    if found["unreadable"]:
        text += f"; {found['unreadable']} more could not be read and were left out"
    if not math.isnan(found["images_per_second"]):
        text += f"; images per second: {found['images_per_second']:.2f} model"
    lines.append(text)
    return lines


def _head(column: str) -> str:
    """A column's title: ``mask AP50`` of ``segm_AP50``; of boxes the metric alone."""
    prefix, sign, metric = column.rpartition("_")
    return f"{_KINDS[prefix + sign]} {metric}" if sign else metric


def _coco_lines(found: Scores) -> list[str]:
    """Two lines a kind, of precision and of recall."""
    kinds = {prefix: title for prefix, title in _KINDS.items() if f"{prefix}AP" in found}
    width = max(map(len, [*kinds.values(), "mask"])) + 1
    lines = []
    for prefix, title in kinds.items():
        names = _KEYPOINT if title == "keypoint" else _MAIN
        shown = [f"{name} {_percent(found[prefix + name])}" for name in names]
        half = len(shown) // 2
        lines.append(f"{title:<{width}}{'  '.join(shown[:half])}")
        lines.append(f"{'':<{width}}{'  '.join(shown[half:])}")
    return lines


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
