"""Which detections ``mlx_rcnn predict`` keeps and shows."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...outputs.detections import Detections
from ..errors import CommandError

if TYPE_CHECKING:
    from ...models import Detector

Found = TypeVar("Found", Detections, dict[str, np.ndarray])
SHOWN_SCORE = 0.5
"""What pictures and the table show when no threshold is given; the results hold all detections."""


def select(prediction: Found, classes: list[int] | None, top_k: int | None) -> Found:
    """The best ``top_k`` rows of the classes asked for; all rows if all classes are."""
    if classes is None:
        return prediction
    rows = np.flatnonzero(np.isin(prediction["labels"], classes))[:top_k]
    if isinstance(prediction, Detections):
        return prediction[rows]
    return {name: array[rows] for name, array in prediction.items()}


def class_labels(text: str, model: Detector) -> list[int]:
    """The labels that ``--classes`` names, by name (in any case) or by number; or CommandError."""
    count = model.config.num_classes
    names = model.class_names or ()
    known = {name.lower(): label for label, name in enumerate(names) if label > 0 and name != "N/A"}
    labels = []
    for item in (part.strip() for part in text.split(",")):
        if item.lower() in known:
            labels.append(known[item.lower()])
        elif item.isdecimal():
            if not 1 <= int(item) < count:
                raise CommandError(f"--classes: {item} is not in 1..{count - 1}")
            labels.append(int(item))
        elif not known:
            raise CommandError(
                f"--classes: {item!r} given, but the model has no class names: "
                f"expected numbers from 1 to {count - 1}"
            )
        else:
            near = difflib.get_close_matches(item.lower(), known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see `mlx_rcnn info`"
            raise CommandError(f"--classes: the model has no class {item!r}; {hint}")
    return labels
