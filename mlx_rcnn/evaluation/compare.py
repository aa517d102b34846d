"""Two models on the same data: what one does better than the other."""

from __future__ import annotations

import numpy as np

from .curves import Analysis

_NUMBERS = ("AP", "AP50", "AP75", "false_positives", "false_negatives")
_OF_CLASSES = ("AP", "AP50", "AP75")
_BEST = ("precision", "recall", "F1")
_COUNTS = ("right", "wrong", "missed", "F1")


def compare(one: Analysis, other: Analysis) -> Analysis:
    """``one`` less ``other``, analyses of one kind on the same images; else ValueError."""
    if one["kind"] != other["kind"]:
        raise ValueError(f"kinds {one['kind']!r} and {other['kind']!r}: expected the same")
    mine = {row["image_id"]: row for row in one["images"]}
    theirs = {row["image_id"]: row for row in other["images"]}
    if mine.keys() != theirs.keys():
        raise ValueError(
            f"{len(mine.keys() ^ theirs.keys())} images are in one analysis alone: expected two of "
            "the same data"
        )
    # NaN where one of them has none, here and below
    best = {name: one["best"][name] - other["best"][name] for name in _BEST}
    errors = {
        kind: row["dAP"] - other["errors"][kind]["dAP"] for kind, row in one["errors"].items()
    }
    numbers = {name: one[name] - other[name] for name in _NUMBERS}
    per_class = {
        name: _class(row, other["per_class"][name])
        for name, row in one["per_class"].items()
        if name in other["per_class"]
    }
    images = [_image(mine[key], theirs[key]) for key in mine]  # each at its model's own threshold
    changed = [row for row in images if row["difference"]]
    changed.sort(key=lambda row: -row["difference"])  # the most improved first
    return {**numbers, "best": best, "errors": errors, "per_class": per_class, "images": changed}


def _class(one: Analysis, other: Analysis) -> dict[str, float]:
    row = {name: one[name] - other[name] for name in _OF_CLASSES}
    return {**row, "F1": one["best"]["F1"] - other["best"]["F1"]}


def _image(one: Analysis, other: Analysis) -> Analysis:
    # Nothing there and nothing found is all that can be done.
    first, second = (float(np.nan_to_num(row["F1"], nan=1.0)) for row in (one, other))
    sides = ({name: row[name] for name in _COUNTS} for row in (one, other))
    return {
        "image_id": one["image_id"],
        "difference": first - second,
        **dict(zip(("one", "other"), sides, strict=True)),
    }
